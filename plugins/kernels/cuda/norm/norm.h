// Residual addition and layer norm of rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename T>
struct NormArguments {
  Global<const float> other_stream;  // [rows, N] where W is 2 N
  Global<const float> stream;        // [rows, N]
  Global<const T> update;            // [rows, N]
  Global<const float> scale;         // [W]
  Global<const float> bias;          // [W]
  Global<float> stream_out;          // [rows, N] where W is N, may be stream
  Global<T> normed;                  // [rows, W], may be update where W is N
  int64_t rows = 0;
  int32_t size = 0;   // N
  int32_t width = 0;  // W: N, or 2 N
  float epsilon = 0;
  bool vector_rows = false;  // everything may be reached 16 bytes at a time
};

template <typename T>
reformer_status launch_norm(const NormArguments<T>& arguments, void* stream);

}  // namespace reformer::cuda
