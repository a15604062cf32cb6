// Matrix steps that every architecture has: tensor cores where they can, plain arithmetic where
// not. float32 keeps its accuracy on tensor cores by being split into two TF32 parts.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// Element `index` of a register of an operand: one float32, or one of two 16-bit elements.
template <typename T>
__device__ __forceinline__ float operand_element(uint32_t bits, int index) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(bits);
  } else {
    return to_float(T{static_cast<uint16_t>(index == 0 ? bits : bits >> 16)});
  }
}

// d += a * b without tensor cores: a lane fetches its two rows of A and its two columns of B from
// the lanes that have them. Operands lie as multiply_16x8x16's or as multiply_16x8x8_tf32's: in
// both, what lane t of a row's four has in a[0] and a[1] meets what lane t of a column's four has
// in b[0], and a[2] and a[3] meet b[1].
template <typename T>
__device__ __forceinline__ void multiply_plainly(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int row = lane / 4 * 4;
  const int column = lane % 4 * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll 1  // four times the code, in every step of a kernel, takes minutes to compile
    for (int t = 0; t < 4; ++t) {
      const uint32_t rows[2] = {__shfl_sync(kFullWarp, a[2 * half], row + t),
                                __shfl_sync(kFullWarp, a[2 * half + 1], row + t)};
      const uint32_t columns[2] = {__shfl_sync(kFullWarp, b[half], column + t),
                                   __shfl_sync(kFullWarp, b[half], column + 4 + t)};
#pragma unroll
      for (int e = 0; e < static_cast<int>(4 / sizeof(T)); ++e) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          d[i] =
              fmaf(operand_element<T>(rows[i / 2], e), operand_element<T>(columns[i % 2], e), d[i]);
        }
      }
    }
  }
}

// d += a * b of 16-bit elements, A 16 x 16, B 16 x 8; operands lie as multiply_16x8x16 has them.
template <typename T>
__device__ __forceinline__ void multiply_add_16x8x16(float (&d)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
  if (!is_turing()) {
    multiply_16x8x16<T>(d, a, b);
  } else if constexpr (std::is_same_v<T, float16>) {
    multiply_16x8x8_float16(d, {a[0], a[1]}, b[0]);
    multiply_16x8x8_float16(d, {a[2], a[3]}, b[1]);
  } else {
    multiply_plainly<T>(d, a, b);
  }
}

// The nearest TF32 number (11 bits of float32's 24; halves away from zero), as cvt.rna.tf32.f32 has
// it but for NaN, which costs that instruction four others.
__device__ __forceinline__ float round_to_tf32(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xFFFFE000u);
}

// A register of float32 operands as two TF32 numbers. On Turing `big` is the float32 itself.
struct SplitFloat {
  uint32_t big;
  uint32_t small;
};

// big is x rounded to TF32, so that x - big is exact and at most 2^-11 |x|: at most 2^12 steps of
// 2^-23, of which TF32 keeps all but, above 2^11, the lowest bit. So |x - big - small| <= 2^-23
// |x|. Subnormal numbers, infinities and NaN have no such bound. An infinity stays one (big), with
// a NaN as its rest.
__device__ __forceinline__ SplitFloat split_float(float x) {
  if (is_turing()) return {__float_as_uint(x), 0};
  const float big = round_to_tf32(x);
  return {__float_as_uint(big), __float_as_uint(x - big)};
}

template <int kCount>
struct SplitOperand {
  uint32_t big[kCount];
  uint32_t small[kCount];
};

template <int kCount>
__device__ __forceinline__ SplitOperand<kCount> split_operand(const float (&values)[kCount]) {
  SplitOperand<kCount> operand;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const SplitFloat split = split_float(values[i]);
    operand.big[i] = split.big;
    operand.small[i] = split.small;
  }
  return operand;
}

// sums + corrections += a * b in float32's accuracy, A 16 x 8, B 8 x 8; operands lie as
// multiply_16x8x8_tf32 has them. What is left out of a product xy is small * small, 2^-22 |xy| at
// most, and what the small parts lack, twice 2^-23 |xy|: 2^-21 |xy| in all, and, as signs differ,
// far less of a sum. Tensor cores round each step's sum towards zero, 2^-23 of it at most: the
// corrections, 2^-10 of the sums, are added up apart, and a caller adds long sums up in pieces.
__device__ __forceinline__ void multiply_add_16x8x8(float (&sums)[4], float (&corrections)[4],
                                                    const SplitOperand<4>& a,
                                                    const SplitOperand<2>& b) {
  if (is_turing()) {
    multiply_plainly<float>(sums, a.big, b.big);
  } else {
    multiply_16x8x8_tf32(corrections, a.small, b.big);
    multiply_16x8x8_tf32(corrections, a.big, b.small);
    multiply_16x8x8_tf32(sums, a.big, b.big);
  }
}

}  // namespace reformer::cuda
