// Residual addition and layer norm of rows.
#pragma once

#include <cstdint>

#include "kernels/common/validation.h"

namespace reformer {

struct NormJob {
  NormSizes sizes;
  int32_t dtype = REFORMER_FLOAT32;
  float epsilon = 0;
  const float* other_stream = nullptr;  // [rows, N], or null: W is N, and else 2 N
  const float* stream = nullptr;        // [rows, N]
  const void* update = nullptr;         // T [rows, N]
  const float* scale = nullptr;         // [W]
  const float* bias = nullptr;          // [W]
  float* stream_out = nullptr;          // [rows, N], may be stream; null with other_stream
  void* normed = nullptr;               // T [rows, W], may be update without other_stream
};

// Adds and normalises rows [begin, end).
using NormFunction = void (*)(const NormJob& job, int64_t begin, int64_t end);
NormFunction select_norm();

}  // namespace reformer
