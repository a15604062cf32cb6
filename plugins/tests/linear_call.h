// Linear: random calls, and what the contract makes of them.
#pragma once

#include <cstdint>
#include <vector>

#include "draw.h"
#include "reformer_kernels.h"

namespace reformer::test {

// One call. The values of x, bias and a weight of floats are those that their type can hold.
struct LinearCall {
  int32_t dtype = REFORMER_FLOAT32;
  int32_t weight_dtype = REFORMER_INT8;
  int32_t activation = REFORMER_NO_ACTIVATION;
  int64_t rows = 1, size = 1, outputs = 1;  // M, K, N
  bool has_bias = true;
  bool packed_before = true;
  int64_t offset = 0;         // elements by which every tensor starts behind a multiple of 16 bytes
  std::vector<float> x;       // [M, K]
  std::vector<float> weight;  // [N, K], whole numbers of an int8 weight
  std::vector<float> scales;  // [N] of an int8 weight
  std::vector<float> bias;    // [N]
};

LinearCall fill_linear(Random& random, int32_t dtype, int32_t weight_dtype, int64_t rows,
                       int64_t size, int64_t outputs);
// Sizes of 1 and odd ones, rows of zeros, of ties, denormal and huge ones.
LinearCall draw_linear(Random& random, int32_t weight_dtype);
// The call of one of its rows.
LinearCall take_row(const LinearCall& call, int64_t row);

// Calls the kernel; CHECKs that it succeeds. y [M, N].
std::vector<float> run_linear(const LinearCall& call, int32_t workers);

// The largest error as a share of what is allowed: an int8 product without gelu none at all, else
// what float32 arithmetic and the rounding to T may make.
double measure_linear(const LinearCall& call, const std::vector<float>& got);

}  // namespace reformer::test
