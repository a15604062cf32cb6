// How a block computes the scales of the keys of one head's positions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/sizes.h"
#include "kernels/cuda/attention/base2.h"
#include "kernels/cuda/attention/key_scale.h"
#include "kernels/cuda/device/divisor.h"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// Rows that a group of lanes has: so many loads a lane are under way at once.
constexpr int kScaleRows = 8;

// How a launch divides the rows. A group of `lanes` lanes shares kScaleRows consecutive positions
// of one head: as many lanes as a row has pieces, up to a warp, a power of two.
struct KeyScalePlan {
  int32_t lanes = 1;
  int32_t block_positions = 1;
  Divisor by_head_blocks;  // blocks that one head's positions take
  Divisor by_heads;
  int64_t blocks = 0;
};

template <typename T>
KeyScalePlan plan_key_scale(const KeyScaleArguments<T>& arguments, int threads) {
  const int64_t pieces =
      arguments.vector_rows ? arguments.head_size / kVectorElements<T> : arguments.head_size;
  KeyScalePlan plan;
  while (plan.lanes < kWarpSize && plan.lanes < pieces) plan.lanes *= 2;
  plan.block_positions = threads / plan.lanes * kScaleRows;
  const int64_t head_blocks = divide_up<int64_t>(arguments.length, plan.block_positions);
  // Beyond a grid the launch is refused, and the divisors do not matter.
  const auto small = [](int64_t value) { return static_cast<int32_t>(value & 0x7FFFFFFF); };
  plan.by_head_blocks = Divisor(std::max(1, small(head_blocks)));
  plan.by_heads = Divisor(std::max(1, small(arguments.heads)));
  plan.blocks = multiply_sizes({arguments.batch, arguments.heads, head_blocks});
  return plan;
}

// A lane's share of the squares of a group's rows. `rows` of them exist.
template <typename T>
__device__ __forceinline__ void sum_squares(const KeyScaleArguments<T>& arguments,
                                            Global<const T> first, int rows, int lane, int lanes,
                                            float (&sums)[kScaleRows]) {
  const int head_size = static_cast<int>(arguments.head_size);
  const int width_bytes = static_cast<int>(arguments.heads * arguments.head_size * sizeof(T));
  if (arguments.vector_rows) {
    constexpr int kElements = kVectorElements<T>;
    for (int i = lane * kElements; i < head_size; i += lanes * kElements) {
      Vector16 pieces[kScaleRows];
#pragma unroll
      for (int row = 0; row < kScaleRows; ++row) {
        pieces[row] =
            row < rows ? load_vector(offset_rows(first + i, row, width_bytes)) : Vector16{};
      }
#pragma unroll
      for (int row = 0; row < kScaleRows; ++row) {
        float values[kElements];
        unpack_vector<T>(pieces[row], values);
#pragma unroll
        for (int j = 0; j < kElements; ++j) sums[row] += values[j] * values[j];
      }
    }
    return;
  }
  for (int i = lane; i < head_size; i += lanes) {
#pragma unroll
    for (int row = 0; row < kScaleRows; ++row) {
      const float value = row < rows ? to_float(*offset_rows(first + i, row, width_bytes)) : 0.0f;
      sums[row] += value * value;
    }
  }
}

// Computes the scales of the positions of the launch's block `index`.
template <typename T>
__device__ __forceinline__ void scale_keys(const KeyScaleArguments<T>& arguments,
                                           const KeyScalePlan& plan, int32_t index) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = plan.lanes;
  const int lane = thread & (lanes - 1);
  const int32_t pair = plan.by_head_blocks.divide(index);
  const int32_t batch = plan.by_heads.divide(pair);
  const int32_t head = plan.by_heads.remainder(pair, batch);
  const int64_t position =
      int64_t{plan.by_head_blocks.remainder(index, pair)} * plan.block_positions +
      (thread - lane) / lanes * kScaleRows;
  const int64_t left = arguments.length - position;
  const int rows = static_cast<int>(left < kScaleRows ? left : kScaleRows);
  const int64_t token = batch * arguments.length + position;
  float sums[kScaleRows] = {};
  if (rows > 0) {
    sum_squares(arguments,
                arguments.query_key + (token * arguments.heads + head) * arguments.head_size, rows,
                lane, lanes, sums);
  }
  for (int step = lanes / 2; step > 0; step /= 2) {
#pragma unroll
    for (int row = 0; row < kScaleRows; ++row) {
      sums[row] += __shfl_xor_sync(kFullWarp, sums[row], step);
    }
  }
  // The group's lanes finish a row each.
  const float size = static_cast<float>(arguments.head_size);
  for (int row = lane; row < rows; row += lanes) {
    float sum = sums[0];
#pragma unroll
    for (int i = 1; i < kScaleRows; ++i) sum = i == row ? sums[i] : sum;
    const float scale = kLog2E / (sqrtf(sum / size + arguments.epsilon) * sqrtf(size));
    arguments.key_scale[pair * arguments.length + position + row] =
        arguments.mask[token + row] != 0 ? scale : -scale;
  }
}

}  // namespace reformer::cuda
