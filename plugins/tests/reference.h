// The operators written down as the contract states them: loops, double precision, no tricks. Only
// each logsumexp is rounded to float32, which the contract demands.
#pragma once

#include <vector>

#include "operands.h"

namespace reformer::test {

std::vector<float> attention_reference(const Attention& call);

// Rotated coordinates of a token, [S], for checking a bucket without asking how ties fall.
std::vector<double> rotate_reference(const Hash& call, int64_t batch, int64_t head, int64_t round,
                                     int64_t token);

// The bucket, exact when all sums are (small integers): the lowest index wins ties.
int32_t bucket_reference(const Hash& call, int64_t batch, int64_t head, int64_t round,
                         int64_t token);

}  // namespace reformer::test
