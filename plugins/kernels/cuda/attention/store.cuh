// A warp's finished rows on their way to memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/matrix.cuh"
#include "kernels/cuda/attention/scores.cuh"
#include "kernels/cuda/attention/tile.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// Finishes a tile of 16 rows, puts them into `staging` [16, kStride] and writes their logsumexps.
template <typename Tile>
__device__ __forceinline__ void stage_rows(const AttentionArguments<typename Tile::T>& arguments,
                                           const AttentionPlan& plan, const AttentionBlock& block,
                                           const RowState& state,
                                           const float (&result)[Tile::kHeadSize / 8][4],
                                           const int32_t* positions, int32_t rows, int32_t lane,
                                           typename Tile::T* staging) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int32_t row = lane / 4 + 8 * r;
    const RowEnd end = finish_row(state.max[r], sum_of_row(state.sum[r]));
    if (!arguments.direct && row < rows && lane % 4 == 0) {
      const int64_t round = static_cast<int64_t>(block.pair) * plan.rounds + block.round;
      arguments.lse[round * plan.length + positions[row]] = end.lse;
    }
    MatrixSteps<Tile>::store_row(result, r, end.factor, lane, staging + row * Tile::kStride);
  }
}

// The block's head in the tensor that takes its rows.
template <typename T>
__device__ __forceinline__ Global<T> find_target(const AttentionArguments<T>& arguments,
                                                 const AttentionPlan& plan,
                                                 const AttentionBlock& block) {
  if (arguments.direct) return arguments.output + block.first_element;
  // [B, R, L, H*D]: the batch entries before take R times as much, and so do the rounds before.
  const int64_t rounds = static_cast<int64_t>(block.batch) * (plan.rounds - 1) + block.round;
  const int64_t round_elements = arguments.length * arguments.heads * arguments.head_size;
  return arguments.partial + (block.first_element + rounds * round_elements);
}

// Writes the warp's first `rows` staged rows to their positions.
template <typename Tile>
__device__ __forceinline__ void write_rows(const AttentionPlan& plan, bool vector_rows,
                                           Global<typename Tile::T> target,
                                           const int32_t* positions, int32_t rows, int32_t lane,
                                           const typename Tile::T* staging) {
  if (!vector_rows) {
#pragma unroll 1
    for (int32_t i = lane; i < rows * Tile::kHeadSize; i += kWarpSize) {
      const int32_t row = i / Tile::kHeadSize;
      const int32_t column = i % Tile::kHeadSize;
      if (column >= plan.head_size) continue;
      offset_rows(target, positions[row], plan.width_bytes)[column] =
          staging[row * Tile::kStride + column];
    }
    return;
  }
  constexpr int kStep = kWarpSize / Tile::kLaneVectors;
  const int32_t first_row = lane / Tile::kLaneVectors;
  const int32_t first_column = lane % Tile::kLaneVectors * Tile::kVector;
  staging += first_row * Tile::kStride + first_column;
#pragma unroll
  for (int32_t row = 0; row < Tile::kWarpRows; row += kStep) {
    if (first_row + row >= rows) break;
    const auto target_row =
        offset_rows(target + first_column, positions[first_row + row], plan.width_bytes);
#pragma unroll
    for (int32_t column = 0; column < Tile::kHeadSize;
         column += Tile::kLaneVectors * Tile::kVector) {
      if (first_column + column >= plan.head_size) continue;
      store_vector(target_row + column,
                   *reinterpret_cast<const Vector16*>(staging + row * Tile::kStride + column));
    }
  }
}

}  // namespace reformer::cuda
