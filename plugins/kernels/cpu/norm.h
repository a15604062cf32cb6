// Residual addition and layer norm of rows.
#pragma once

#include <cstdint>

#include "kernels/common/validation.h"

namespace reformer {

struct NormJob {
  NormSizes sizes;
  int32_t dtype = REFORMER_FLOAT32;
  float epsilon = 0;
  const float* stream = nullptr;  // [rows, N]
  const void* update = nullptr;   // T [rows, N]
  const float* scale = nullptr;   // [N]
  const float* bias = nullptr;    // [N]
  float* stream_out = nullptr;    // [rows, N], may be stream
  void* normed = nullptr;         // T [rows, N], may be update
};

// Adds and normalises rows [begin, end).
using NormFunction = void (*)(const NormJob& job, int64_t begin, int64_t end);
NormFunction select_norm();

}  // namespace reformer
