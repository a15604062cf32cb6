// LSHBucketsStep of one backend, on sequences of small integers: sums are exact, ties are common,
// and every bucket is determined.
#pragma once

#include <cstdint>

#include "draw.h"
#include "reformer_kernels.h"

namespace reformer::test {

struct BucketsStepFunctions {
  reformer_status (*measure)(const reformer_lsh_buckets_step_params*, uint64_t*);
  reformer_status (*run)(const reformer_lsh_buckets_step_params*);
};
extern const BucketsStepFunctions kCpuBucketsStep;

// Prompts of unlike lengths, then steps and rests, against LSHBuckets' sentence over all tokens.
void check_buckets_steps(Random& random, const BucketsStepFunctions& functions, int32_t workers);

// A row whose lengths do not fit is refused, with nothing written, or rests.
void check_buckets_lengths(const BucketsStepFunctions& functions, bool refuses);

}  // namespace reformer::test
