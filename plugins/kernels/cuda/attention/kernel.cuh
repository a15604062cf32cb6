// The attention kernel: a block takes up to 64 queries of one chunk through all keys of its window,
// with a running softmax. A warp has 16 or 32 queries; tiles of keys and values pass through a ring
// of slots in shared memory, filled by asynchronous copies.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/keys.cuh"
#include "kernels/cuda/attention/matrix_float.cuh"
#include "kernels/cuda/attention/matrix_half.cuh"
#include "kernels/cuda/attention/plan.h"
#include "kernels/cuda/attention/rows.cuh"
#include "kernels/cuda/attention/scores.cuh"
#include "kernels/cuda/attention/store.cuh"
#include "kernels/cuda/attention/tile.cuh"
#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

// Positions of the queries, metadata of the first two tiles; starts the first copies.
template <typename Tile>
__device__ __forceinline__ void start_block(const AttentionArguments<typename Tile::T>& arguments,
                                            const AttentionPlan& plan, const AttentionBlock& block,
                                            const AttentionShared<Tile>& shared,
                                            const RowRing<Tile>& ring) {
  KeyMetadata<Tile, 2> first;
  first.read_positions(arguments, plan, block, 0);
  const int32_t row = static_cast<int32_t>(threadIdx.x);
  static_assert(Tile::kThreads >= Tile::kQueryRows, "a thread has one query at most");
  if (row < Tile::kQueryRows) {
    // The list of keys starts with the chunk's own.
    int32_t position = Tile::kKnowsOwnKeys ? first.first_position() : kNoKey;
    if (!Tile::kKnowsOwnKeys && row < block.rows) {
      position = position_at(arguments, plan, block, block.round, block.first_slot + row);
    }
    shared.query_positions[row] = row < block.rows ? position : kNoKey;
  }
  first.store_positions(shared, 0);
  __syncthreads();
  first.read_scales(arguments, plan, block);
  ring.start();
  first.store_scales(shared, 0);
}

__device__ __forceinline__ int32_t own_warp() {
  return static_cast<int32_t>(threadIdx.x / kWarpSize);
}

// A position avoids itself where the block's own rows are the first keys and listed nowhere else.
template <typename Tile>
__device__ __forceinline__ void avoid_own(int32_t tile, float self_score, int32_t lane,
                                          typename MatrixSteps<Tile>::Scores& scores) {
  // By warp, so that the columns are known when this is compiled.
#pragma unroll
  for (int warp = 0; warp < Tile::kWarps; ++warp) {
    if (own_warp() != warp) continue;
#pragma unroll
    for (int m = 0; m < Tile::kRowTiles; ++m) {
      const int first_row = warp * Tile::kWarpRows + 16 * m;
      if constexpr (Tile::kQueryRows == Tile::kKeys) {
        avoid_diagonal(first_row, self_score, lane, scores[m]);
      } else {
        avoid_diagonal(first_row - tile * Tile::kKeys, self_score, lane, scores[m]);
      }
    }
  }
}

// Softmax weights of a tile's keys, from the products with them; `result` shrinks to the new
// maximum.
template <typename Tile>
__device__ __forceinline__ void weigh_tile(const AttentionArguments<typename Tile::T>& arguments,
                                           const AttentionPlan& plan, const AttentionBlock& block,
                                           const AttentionShared<Tile>& shared, int32_t tile,
                                           int32_t lane, RowState (&rows)[Tile::kRowTiles],
                                           typename MatrixSteps<Tile>::Scores& scores,
                                           typename MatrixSteps<Tile>::Result& result) {
  const int32_t first_row = own_warp() * Tile::kWarpRows;
  RowPositions positions[Tile::kRowTiles];
#pragma unroll
  for (int m = 0; m < Tile::kRowTiles; ++m) {
    positions[m] =
        load_positions(shared.query_positions + first_row + 16 * m, arguments.causal, lane);
  }
  const int32_t metadata = tile % kMetadataTiles * Tile::kKeys;
  const int32_t entry = first_entry_of<Tile>(plan, block, tile);
  mask_scores(positions, shared.key_visible + metadata, shared.key_scales + metadata, lane, scores);
  if (arguments.avoids_self && !lists_self_once(plan, block)) {
    avoid_position(positions, shared.key_positions + metadata, arguments.self_score, lane, scores);
  } else if (arguments.avoids_self && tile < Tile::kQueryRows / Tile::kKeys) {
    avoid_own<Tile>(tile, arguments.self_score, lane, scores);
  }
  const int32_t columns = plan.window_keys - entry;
  if (columns < Tile::kKeys) clear_scores(columns, lane, scores);
#pragma unroll
  for (int m = 0; m < Tile::kRowTiles; ++m) {
    const ColumnPair<float> shrink = weigh_scores(rows[m], scores[m]);
    if (tile > 0) shrink_result(shrink, result[m]);
  }
}

// Finishes the warp's rows and writes them, by way of `staging` [kWarpRows, kStride].
template <typename Tile>
__device__ __forceinline__ void finish_rows(const AttentionArguments<typename Tile::T>& arguments,
                                            const AttentionPlan& plan, const AttentionBlock& block,
                                            const AttentionShared<Tile>& shared,
                                            const RowState (&rows)[Tile::kRowTiles],
                                            const typename MatrixSteps<Tile>::Result& result,
                                            int32_t lane, typename Tile::T* staging) {
  const int32_t first_row = own_warp() * Tile::kWarpRows;
  const int32_t* positions = shared.query_positions + first_row;
  const int32_t count = min(block.rows - first_row, static_cast<int32_t>(Tile::kWarpRows));
  const RowFactors<Tile> factors =
      finish_states<Tile>(arguments, plan, block, rows, positions, count, lane);
  stage_rows<Tile>(result, factors, lane, staging);
  __syncwarp();
  write_rows<Tile>(plan, arguments.vector_rows, find_target(arguments, plan, block), positions,
                   count, lane, staging);
}

template <typename T, int kSize>
__global__ void __launch_bounds__((AttentionTile<T, kSize>::kThreads),
                                  (AttentionTile<T, kSize>::kMinBlocks))
    attend_chunk(AttentionArguments<T> arguments, AttentionPlan plan) {
  using Tile = AttentionTile<T, kSize>;
  using Matrix = MatrixSteps<Tile>;
  const AttentionBlock block = locate_block<Tile>(plan);
  if (block.rows <= 0) return;
  const AttentionShared<Tile> shared = layout_shared<Tile>(plan);
  const RowRing<Tile> ring(arguments, plan, block, shared);
  start_block<Tile>(arguments, plan, block, shared, ring);

  const int32_t lane = static_cast<int32_t>(threadIdx.x % kWarpSize);
  const int32_t first_row = own_warp() * Tile::kWarpRows;
  const bool active = first_row < block.rows;  // a warp without queries only copies
  const bool has_room = !Tile::kQueryInRegisters || plan.query_rows > 0;
  const T* query_rows = (has_room ? shared.query : ring.slot(0)) + first_row * Tile::kStride;
  RowState rows[Tile::kRowTiles];
  typename Matrix::Query query;
  typename Matrix::Result result = {};
  KeyMetadata<Tile, 1> next;
  for (int32_t tile = 0; tile < plan.key_tiles; ++tile) {
    const T* keys = ring.await_item(2 * tile);
    const bool prepare = tile + 2 < plan.key_tiles;
    if (prepare) next.read_positions(arguments, plan, block, tile + 2);
    typename Matrix::Weights weights;
    if (active) {
      typename Matrix::Scores scores;
      if (tile == 0) Matrix::load_query(query_rows, lane, query);
      Matrix::multiply_keys(query_rows, query, keys, lane, scores);
      weigh_tile<Tile>(arguments, plan, block, shared, tile, lane, rows, scores, result);
      Matrix::keep_weights(scores, weights);
    }
    if (prepare) next.store_positions(shared, tile + 2);
    const T* values = ring.await_item(2 * tile + 1);
    if (prepare) next.read_scales(arguments, plan, block);
    if (active) Matrix::multiply_values(weights, values, lane, result);
    if (prepare) next.store_scales(shared, tile + 2);
  }
  if (!active) return;
  // Nobody reads the last keys, or the warp's own queries, any more.
  T* staging = Tile::kQueryInRegisters ? ring.slot(2 * plan.key_tiles - 2) : shared.query;
  finish_rows<Tile>(arguments, plan, block, shared, rows, result, lane,
                    staging + first_row * Tile::kStride);
}

template <typename T, int kSize>
reformer_status launch_head_size(const AttentionArguments<T>& arguments, void* stream) {
  using Tile = AttentionTile<T, kSize>;
  AttentionPlan plan;
  int64_t blocks = 0;
  if (const auto status = plan_attention<Tile>(arguments, &plan, &blocks)) return status;
  return launch(attend_chunk<T, kSize>, blocks, Tile::kThreads, measure_shared<Tile>(plan), stream,
                arguments, plan);
}

template <typename T>
reformer_status launch_attention(const AttentionArguments<T>& arguments, void* stream) {
  if (arguments.head_size <= 16) return launch_head_size<T, 16>(arguments, stream);
  if (arguments.head_size <= 32) return launch_head_size<T, 32>(arguments, stream);
  if (arguments.head_size <= 64) return launch_head_size<T, 64>(arguments, stream);
  if (arguments.head_size <= 128) return launch_head_size<T, 128>(arguments, stream);
  if (arguments.head_size <= 256) return launch_head_size<T, 256>(arguments, stream);
  return REFORMER_ERROR_TOO_LARGE;
}

}  // namespace reformer::cuda
