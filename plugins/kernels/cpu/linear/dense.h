// Linear in float32: products, bias and activation in one pass from x to y.
#pragma once

#include <cstddef>
#include <cstdint>

#include "reformer_kernels.h"

namespace reformer {

struct DenseJob {
  const float* x;       // [rows, size]
  const float* panels;  // [num_panels][size][kPanelColumns]
  const float* bias;    // [num_panels * kPanelColumns]
  float* y;             // [rows, outputs]
  int64_t rows;         // >= 1
  int64_t size;         // K
  int64_t outputs;      // N >= 1
  int32_t activation;   // a reformer_activation
};

// Whether this processor has instructions with which that pays (plugins/README.md).
bool has_dense();

// On a processor that has_dense().
void run_dense(const DenseJob& job, const reformer_execution& execution);

}  // namespace reformer
