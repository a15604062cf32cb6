// 16 bytes as the elements they hold.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename T>
constexpr int kVectorElements = static_cast<int>(sizeof(Vector16) / sizeof(T));

template <typename T>
__device__ __forceinline__ void unpack_vector(const Vector16& vector,
                                              float (&values)[kVectorElements<T>]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      values[i] = __uint_as_float(vector.words[i]);
    } else {
      values[2 * i] = to_float(T{static_cast<uint16_t>(vector.words[i] & 0xFFFF)});
      values[2 * i + 1] = to_float(T{static_cast<uint16_t>(vector.words[i] >> 16)});
    }
  }
}

template <typename T>
__device__ __forceinline__ Vector16 pack_vector(const float (&values)[kVectorElements<T>]) {
  Vector16 vector;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 4) {
      vector.words[i] = __float_as_uint(values[i]);
    } else {
      vector.words[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
    }
  }
  return vector;
}

}  // namespace reformer::cuda
