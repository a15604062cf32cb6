// Residual addition and layer norm of rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename T>
struct NormArguments {
  Global<const float> stream;  // [rows, N]
  Global<const T> update;      // [rows, N]
  Global<const float> scale;   // [N]
  Global<const float> bias;    // [N]
  Global<float> stream_out;    // [rows, N], may be stream
  Global<T> normed;            // [rows, N], may be update
  int64_t rows = 0;
  int32_t size = 0;  // N
  float epsilon = 0;
  bool vector_rows = false;  // everything may be reached 16 bytes at a time
};

template <typename T>
reformer_status launch_norm(const NormArguments<T>& arguments, void* stream);

}  // namespace reformer::cuda
