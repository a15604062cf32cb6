// Rotations as the hashing's right operand: a stage of groups of columns in shared memory.
//
// A 16-bit column is scaled by a power of two, so that its largest element lies in [1, 2): its
// parts then add up to within 2^-23, as close as float32 is to such a number.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/hash/tile.cuh"

namespace reformer::cuda {

template <typename Tile>
struct HashStage {
  Vector16* vectors;  // [kGroups, kParts, kHashGroup columns, kColumnVectors]
  float* scales;      // [kGroups, kHashGroup], what a column's products must be multiplied with

  __device__ __forceinline__ Vector16* find(int group, int part, int column) const {
    return vectors + ((group * Tile::kParts + part) * kHashGroup + column) * Tile::kColumnVectors;
  }
};

template <typename Tile>
__device__ __forceinline__ HashStage<Tile> layout_stage() {
  HashStage<Tile> stage;
  stage.vectors = reinterpret_cast<Vector16*>(dynamic_shared());
  stage.scales = reinterpret_cast<float*>(stage.vectors + Tile::kGroups * Tile::kGroupVectors);
  return stage;
}

// A column of the rotations.
struct RotationColumn {
  Global<const float> source;  // its first element
  int32_t stride_bytes;        // between elements
  int32_t size;                // elements there are; 0 in padding

  template <int kVector>
  __device__ __forceinline__ void load(int vector, float (&values)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int k = vector * kVector + i;
      values[i] = k < size ? *offset_rows(source, k, stride_bytes) : 0.0f;
    }
  }
};

// The exponent, as float32 has it, of a magnitude's bits, as far as it and its inverse are normal.
__device__ __forceinline__ int32_t find_exponent(int32_t magnitude_bits) {
  return max(1, min(253, magnitude_bits >> 23));
}

// The parts of the values in a vector each, to vectors that are `stride` from one another.
template <typename T>
__device__ __forceinline__ void store_parts(float (&values)[8], float scale, Vector16* target,
                                            int stride) {
#pragma unroll
  for (float& value : values) value *= scale;
#pragma unroll
  for (int part = 0; part < kRotationParts<T>; ++part) {
    Vector16 vector;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      vector.words[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
      values[2 * i] -= to_float(T{static_cast<uint16_t>(vector.words[i] & 0xFFFF)});
      values[2 * i + 1] -= to_float(T{static_cast<uint16_t>(vector.words[i] >> 16)});
    }
    target[part * stride] = vector;
  }
}

// Fills a group of a stage with columns: lane 4 g + t has vector t of every span of column g, for
// which `target` is the first part's first. Returns what the column's products must be multiplied
// with.
template <typename Tile>
__device__ __forceinline__ float fill_half(const RotationColumn& column, int t, Vector16* target) {
  float values[Tile::kSpans][Tile::kVector];
  int32_t highest = 0;  // magnitudes sort like their bits
#pragma unroll
  for (int span = 0; span < Tile::kSpans; ++span) column.load(4 * span + t, values[span]);
#pragma unroll
  for (int span = 0; span < Tile::kSpans; ++span) {
#pragma unroll
    for (const float value : values[span]) {
      highest = max(highest, __float_as_int(value) & 0x7FFFFFFF);
    }
  }
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    highest = max(highest, __shfl_xor_sync(kFullWarp, highest, step));
  }
  const int32_t exponent = find_exponent(highest);
  const float scale = __int_as_float((254 - exponent) << 23);
#pragma unroll
  for (int span = 0; span < Tile::kSpans; ++span) {
    store_parts<typename Tile::T>(values[span], scale, target + 4 * span,
                                  kHashGroup * Tile::kColumnVectors);
  }
  return __int_as_float(exponent << 23);
}

// float32 needs no scales. Two vectors at once: more would not fit beside the tokens.
template <typename Tile>
__device__ __forceinline__ void fill_float32(const RotationColumn& column, int t,
                                             Vector16* target) {
#pragma unroll 2
  for (int span = 0; span < Tile::kSpans; ++span) {
    float values[Tile::kVector];
    column.load(4 * span + t, values);
    const SplitOperand<4> split = split_operand(values);
    target[4 * span] = {{split.big[0], split.big[1], split.big[2], split.big[3]}};
    target[4 * span + kHashGroup * Tile::kColumnVectors] = {
        {split.small[0], split.small[1], split.small[2], split.small[3]}};
  }
}

// Fills a stage with the groups from `first` on; what is left of their last batch with zeros.
template <typename Tile>
__device__ __forceinline__ void fill_stage(const HashArguments<typename Tile::T>& arguments,
                                           const HashPlan& plan, int32_t head, int32_t first,
                                           const HashStage<Tile>& stage) {
  const int own_column = static_cast<int>(threadIdx.x) % kWarpSize / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  const int32_t columns = arguments.rounds * arguments.rotation_size;
  const Global<const float> rotations =
      arguments.rotations + (head * arguments.head_size * columns + own_column);
  const int batches = (plan.groups - first + Tile::kBatch - 1) / Tile::kBatch;
  const int end = min(int{Tile::kGroups}, batches * int{Tile::kBatch});
#pragma unroll 1
  for (int group = static_cast<int>(threadIdx.x) / kWarpSize; group < end; group += Tile::kWarps) {
    const ColumnWalk place(arguments.factors, plan.by_round_groups, first + group);
    const bool exists =
        first + group < plan.groups && place.first() + own_column < place.half_size();
    RotationColumn column;
    column.source =
        rotations + (int64_t{place.round()} * arguments.rotation_size + place.first_of_round());
    column.stride_bytes = columns * static_cast<int32_t>(sizeof(float));
    column.size = exists ? static_cast<int32_t>(arguments.head_size) : 0;
    Vector16* target = stage.find(group, 0, own_column) + t;
    if constexpr (Tile::kIsFloat32) {
      fill_float32<Tile>(column, t, target);
    } else {
      const float scale = fill_half<Tile>(column, t, target);
      if (t == 0) stage.scales[group * kHashGroup + own_column] = scale;
    }
  }
}

}  // namespace reformer::cuda
