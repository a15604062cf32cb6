// The caches of the step operators.
#pragma once

#include <cstdint>

#include "kernels/cpu/step.h"
#include "reformer_kernels.h"

namespace reformer {

// A cache, and what is written to it.
struct StepCache {
  const void* past;
  void* present;
  const void* fresh;
  int64_t rows;      // of past and present: B for T, B * H * R for buckets
  int64_t row_size;  // bytes of one token in a row
};

// Unless present is past.
void copy_past(const StepJob& job, const reformer_execution& execution, const StepCache& cache);

// Puts each row's new tokens behind those it holds; of a prompt longer than a ring the last ones.
void store_new(const StepJob& job, const StepCache& cache);

}  // namespace reformer
