// Packs rotations into what the hashing kernels read without any guard: [H, part, column, D
// padded], the columns of a factor padded to whole groups, all columns to whole tiles, with zeros.
//
// A round is scaled by a power of two, which no argmax notices, so that its largest element lies in
// [1, 2): the 16-bit parts then add up to within 2^-25, as close as float32 is to such a number.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/hash/hash.h"

namespace reformer::cuda {

constexpr int kPackThreads = 512;
constexpr int kPackWarps = kPackThreads / kWarpSize;

// The largest magnitude that the block's threads pass, as bits: magnitudes sort like their bits.
__device__ __forceinline__ int32_t reduce_highest(int32_t bits) {
  int32_t* warp_highest = reinterpret_cast<int32_t*>(dynamic_shared());  // [kPackWarps]
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const int32_t other = __shfl_xor_sync(kFullWarp, bits, step);
    bits = other > bits ? other : bits;
  }
  if (threadIdx.x % kWarpSize == 0) warp_highest[threadIdx.x / kWarpSize] = bits;
  __syncthreads();
  for (int warp = 0; warp < kPackWarps; ++warp) {
    bits = warp_highest[warp] > bits ? warp_highest[warp] : bits;
  }
  return bits;
}

// A power of two that brings a magnitude into [1, 2), as far as exponents go.
__device__ __forceinline__ float choose_scale(int32_t magnitude_bits) {
  int32_t exponent = magnitude_bits >> 23;
  exponent = exponent < 1 ? 1 : (exponent > 253 ? 253 : exponent);
  return __int_as_float((254 - exponent) << 23);
}

// Column of the rotations behind a round's packed column; -1 behind padding.
__device__ __forceinline__ int64_t find_column(const HashFactors& factors, int64_t packed) {
  int64_t start = 0;
  for (int32_t i = 0; i < factors.count; ++i) {
    const int32_t half_size = factors.half_sizes[i];
    const int64_t groups = (half_size + kHashGroup - 1) / kHashGroup;
    if (packed < groups * kHashGroup) return packed < half_size ? start + packed : -1;
    packed -= groups * kHashGroup;
    start += half_size;
  }
  return -1;
}

// The thread's share of a round's largest magnitude, as bits. source: rows of rotations, `size` of
// them, each `columns` long and `stride` from the next.
__device__ __forceinline__ int32_t find_highest(Global<const float> source, int64_t size,
                                                int64_t columns, int64_t stride) {
  int32_t highest = 0;
  for (int64_t k = threadIdx.x / kWarpSize; k < size; k += kPackWarps) {
    for (int64_t column = threadIdx.x % kWarpSize; column < columns; column += kWarpSize) {
      const int32_t bits = __float_as_int(source[k * stride + column]) & 0x7FFFFFFF;
      highest = bits > highest ? bits : highest;
    }
  }
  return highest;
}

// Writes the parts of one packed element, `part_stride` from one another.
template <typename T>
__device__ __forceinline__ void store_parts(float value, Global<T> target, int64_t part_stride) {
#pragma unroll
  for (int part = 0; part < HashPacking<T>::kParts; ++part) {
    const T rounded = from_float<T>(value);
    target[part * part_stride] = rounded;
    value -= to_float(rounded);
  }
}

// One block a head and round; a warp has one packed column after another.
template <typename T>
__global__ void __launch_bounds__(kPackThreads) pack_rotations(const HashArguments<T> arguments) {
  const int rounds = static_cast<int>(arguments.rounds);
  const int64_t round = static_cast<int>(blockIdx.x) % rounds;
  const int64_t head = static_cast<int>(blockIdx.x) / rounds;
  const int64_t stride = arguments.rounds * arguments.rotation_size;
  const int64_t head_size = arguments.head_size;
  const Global<const float> source =
      arguments.rotations + head * head_size * stride + round * arguments.rotation_size;
  const int32_t highest =
      reduce_highest(find_highest(source, head_size, arguments.rotation_size, stride));
  const float scale = choose_scale(highest);
  const int64_t first = round * arguments.round_columns;
  // The last round also fills the rest of the last tile.
  const bool last = round + 1 == rounds;
  const int64_t end = last ? arguments.padded_columns : first + arguments.round_columns;
  const int64_t size = arguments.padded_size;
  const int64_t part_stride = arguments.padded_columns * size;
  const Global<T> target = arguments.packed + head * HashPacking<T>::kParts * part_stride;
  for (int64_t packed = first + threadIdx.x / kWarpSize; packed < end; packed += kPackWarps) {
    const int64_t column = find_column(arguments.factors, packed - first);
    for (int64_t k = threadIdx.x % kWarpSize; k < size; k += kWarpSize) {
      const bool exists = column >= 0 && k < head_size;
      const float value = exists ? source[k * stride + column] * scale : 0.0f;
      store_parts<T>(value, target + packed * size + k, part_stride);
    }
  }
}

template <typename T>
reformer_status launch_pack(const HashArguments<T>& arguments, void* stream) {
  return launch(pack_rotations<T>, arguments.heads * arguments.rounds, kPackThreads,
                kPackWarps * sizeof(int32_t), stream, arguments);
}

}  // namespace reformer::cuda
