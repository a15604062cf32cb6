// The sizes of one attention launch, and which queries a block of it has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/common/sizes.h"
#include "kernels/cuda/attention/arguments.h"
#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/divisor.h"

namespace reformer::cuda {

// 32 bits suffice: a grid has fewer than 2^31 blocks, a window fewer keys.
struct AttentionPlan {
  int32_t length = 0;
  int32_t heads = 0;
  int32_t head_size = 0;
  int32_t width_bytes = 0;  // of a token: its heads * head_size elements
  int32_t rounds = 0;
  int32_t chunk_length = 0;
  int32_t before = 0;
  int32_t after = 0;
  int32_t window_keys = 0;   // (before + 1 + after) * chunk_length
  int32_t key_tiles = 0;     // tiles of a window
  int32_t query_tiles = 0;   // blocks of a chunk
  int32_t round_chunks = 0;  // chunks of a round
  int32_t all_chunks = 0;    // chunks of all rounds
  int32_t slots = 0;         // of shared memory, at most Tile::kSlots
  int32_t query_rows = 0;    // room for queries in shared memory: Tile::kQueryRows, or none
  int32_t own_tiles = 0;     // tiles of keys that lie in that room, as they are the queries
  Divisor by_chunk_length, by_query_tiles, by_round_chunks, by_all_chunks, by_heads;
};

// Fills the plan and counts the blocks; TOO_LARGE when something does not fit into 32 bits.
template <typename Tile>
reformer_status plan_attention(const AttentionArguments<typename Tile::T>& arguments,
                               AttentionPlan* plan, int64_t* blocks) {
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  const int64_t chunk = arguments.chunk_length;
  const int64_t window_chunks = arguments.before + 1 + arguments.after;
  const int64_t query_tiles = divide_up<int64_t>(chunk, Tile::kQueryRows);
  const int64_t round_chunks = arguments.padded_length / chunk;
  // Every factor is below 2^31, but products of three may not fit int64.
  if (arguments.rounds > kMaxInt32 / (query_tiles * round_chunks)) return REFORMER_ERROR_TOO_LARGE;
  *blocks = query_tiles * round_chunks * arguments.rounds;
  const int64_t pairs = arguments.batch * arguments.heads;
  const int64_t width = arguments.heads * arguments.head_size;
  const int64_t width_bytes = width * static_cast<int64_t>(sizeof(typename Tile::T));
  if (pairs > kMaxInt32 / *blocks || width_bytes > kMaxInt32 ||
      window_chunks > (kMaxInt32 - Tile::kKeys) / chunk) {
    return REFORMER_ERROR_TOO_LARGE;
  }
  *blocks *= pairs;
  plan->length = static_cast<int32_t>(arguments.length);
  plan->heads = static_cast<int32_t>(arguments.heads);
  plan->head_size = static_cast<int32_t>(arguments.head_size);
  plan->width_bytes = static_cast<int32_t>(width_bytes);
  plan->rounds = static_cast<int32_t>(arguments.rounds);
  plan->chunk_length = static_cast<int32_t>(chunk);
  plan->before = static_cast<int32_t>(arguments.before);
  plan->after = static_cast<int32_t>(arguments.after);
  plan->window_keys = static_cast<int32_t>(window_chunks * chunk);
  plan->key_tiles = divide_up<int32_t>(plan->window_keys, Tile::kKeys);
  plan->query_tiles = static_cast<int32_t>(query_tiles);
  plan->round_chunks = static_cast<int32_t>(round_chunks);
  plan->all_chunks = static_cast<int32_t>(round_chunks * arguments.rounds);
  // An LSH block's queries are the rows of its first tiles of keys.
  if (!arguments.is_lsh || !Tile::kQueryInRegisters) plan->query_rows = Tile::kQueryRows;
  if (arguments.is_lsh && !Tile::kQueryInRegisters && Tile::kKnowsOwnKeys) {
    plan->own_tiles = std::min<int32_t>(Tile::kQueryRows / Tile::kKeys, plan->key_tiles);
  }
  plan->slots = std::min<int32_t>(Tile::kSlots, 2 * plan->key_tiles - plan->own_tiles);
  plan->by_chunk_length = Divisor(plan->chunk_length);
  plan->by_query_tiles = Divisor(plan->query_tiles);
  plan->by_round_chunks = Divisor(plan->round_chunks);
  plan->by_all_chunks = Divisor(plan->all_chunks);
  plan->by_heads = Divisor(plan->heads);
  return REFORMER_OK;
}

struct AttentionBlock {
  int32_t batch;
  int32_t pair;  // batch * heads + head
  int32_t round;
  int32_t chunk;          // among the chunks of all rounds
  int32_t first_slot;     // of the queries, among the sorted positions of their round
  int32_t query_tile;     // within the chunk
  int32_t rows;           // queries with a result; not positive when all are virtual
  int64_t first_element;  // of the head in a tensor [B, L, H*D]
};

// Neighbouring blocks share keys: chunks vary fastest but for the tiles of a chunk.
template <typename Tile>
__device__ __forceinline__ AttentionBlock locate_block(const AttentionPlan& plan) {
  const int32_t index = static_cast<int32_t>(blockIdx.x);
  const int32_t chunk = plan.by_query_tiles.divide(index);
  AttentionBlock block;
  block.query_tile = plan.by_query_tiles.remainder(index, chunk);
  block.pair = plan.by_all_chunks.divide(chunk);
  block.chunk = plan.by_all_chunks.remainder(chunk, block.pair);
  block.batch = plan.by_heads.divide(block.pair);
  block.round = plan.by_round_chunks.divide(block.chunk);
  const int32_t head = plan.by_heads.remainder(block.pair, block.batch);
  const int32_t width = plan.width_bytes / static_cast<int32_t>(sizeof(typename Tile::T));
  block.first_element = static_cast<int64_t>(block.batch) * plan.length * width +
                        static_cast<int64_t>(head) * plan.head_size;
  const int32_t first_row = block.query_tile * Tile::kQueryRows;
  block.first_slot =
      plan.by_round_chunks.remainder(block.chunk, block.round) * plan.chunk_length + first_row;
  // Virtual positions sort behind all others and have no result.
  block.rows = min(plan.chunk_length - first_row, plan.length - block.first_slot);
  if (block.rows > Tile::kQueryRows) block.rows = Tile::kQueryRows;
  return block;
}

}  // namespace reformer::cuda
