// A warp's finished rows on their way to memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/matrix.cuh"
#include "kernels/cuda/attention/scores.cuh"
#include "kernels/cuda/attention/tile.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// What a lane's parts of its rows are multiplied with at the end.
template <typename Tile>
struct RowFactors {
  float at[2 * Tile::kRowTiles];
};

// Finishes the warp's rows: writes their logsumexps and returns the factors of their results, lane
// l's of rows l / 4 + 8i. Lane l does so for the row i = l % kLaneRows of these; its four share the
// rest.
template <typename Tile>
__device__ __forceinline__ RowFactors<Tile> finish_states(
    const AttentionArguments<typename Tile::T>& arguments, const AttentionPlan& plan,
    const AttentionBlock& block, const RowState (&states)[Tile::kRowTiles],
    const int32_t* positions, int32_t rows, int32_t lane) {
  constexpr int kLaneRows = 2 * Tile::kRowTiles;
  float max = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) {
    const float whole_sum = sum_of_row(states[i / 2].sum[i % 2]);
    if (lane % kLaneRows == i) {
      max = states[i / 2].max[i % 2];
      sum = whole_sum;
    }
  }
  const RowEnd end = finish_row(arguments, max, sum);
  const int32_t row = lane / 4 + 8 * (lane % kLaneRows);
  if (!arguments.direct && row < rows && lane % 4 < kLaneRows) {
    const int64_t first_row = static_cast<int64_t>(block.pair) * plan.rounds + block.round;
    arguments.lse[first_row * plan.length + positions[row]] = end.lse;
  }
  RowFactors<Tile> factors;
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) {
    factors.at[i] = __shfl_sync(kFullWarp, end.factor, lane / 4 * 4 + i);
  }
  return factors;
}

// Puts finished results into `staging` [kWarpRows, kStride].
template <typename Tile>
__device__ __forceinline__ void stage_rows(const typename MatrixSteps<Tile>::Result& result,
                                           const RowFactors<Tile>& factors, int32_t lane,
                                           typename Tile::T* staging) {
#pragma unroll
  for (int i = 0; i < 2 * Tile::kRowTiles; ++i) {
    MatrixSteps<Tile>::store_row(result[i / 2], i % 2, factors.at[i], lane,
                                 staging + (lane / 4 + 8 * i) * Tile::kStride);
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
    const int32_t position = positions[first_row + row];
    const auto target_row = offset_rows(target + first_column, position, plan.width_bytes);
#pragma unroll
    for (int32_t column = 0; column < Tile::kHeadSize;
         column += Tile::kLaneVectors * Tile::kVector) {
      const auto vector =
          *reinterpret_cast<const Vector16*>(staging + row * Tile::kStride + column);
      // No branch around the loads, which then come before the first store.
      if (first_row + row < rows && first_column + column < plan.head_size) {
        store_vector(target_row + column, vector);
      }
    }
  }
}

}  // namespace reformer::cuda
