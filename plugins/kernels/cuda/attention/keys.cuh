// Which keys a block attends to: their positions, factors and masks.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cuda/attention/tile.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

constexpr int32_t kNoKey = -1;  // the position of a tile's places that have no key
constexpr int32_t kHiddenKey = std::numeric_limits<int32_t>::max();  // behind every limit
constexpr int32_t kNoLimit = kHiddenKey - 1;  // the limit of a query that sees every position

// Position at a slot of a round's order. Slots from `length` on are virtual: no memory has them.
template <typename T>
__device__ __forceinline__ int32_t position_at(const AttentionArguments<T>& arguments,
                                               const AttentionPlan& plan,
                                               const AttentionBlock& block, int32_t round,
                                               int32_t slot) {
  if (arguments.identity_order || slot >= plan.length) return slot;
  const int64_t first_row = static_cast<int64_t>(block.pair) * plan.rounds;
  return arguments.order[first_row * plan.length + multiply_wide(round, plan.length) + slot];
}

// Position of an entry of the block's list of keys. The list starts with the block's own chunk and
// goes on with those after it, then those before: a sum does not ask for the order of its terms,
// and the block's own rows are then easy to find.
template <typename T>
__device__ __forceinline__ int32_t find_key(const AttentionArguments<T>& arguments,
                                            const AttentionPlan& plan, const AttentionBlock& block,
                                            int32_t entry) {
  if (entry >= plan.window_keys) return kNoKey;
  const int32_t step = plan.by_chunk_length.divide(entry);
  const int32_t in_chunk = plan.by_chunk_length.remainder(entry, step);
  int32_t shift = step <= plan.after ? step : step - (plan.before + 1 + plan.after);
  // A neighbour that does not exist has hidden keys with values of zeros: they weigh nothing where
  // a row sees anything, and add nothing to the sum of a row that does not (its logsumexp's steps
  // are wider than any number of keys moves it). Unsigned: a chunk before the first is beyond the
  // last.
  const uint32_t neighbour = static_cast<uint32_t>(block.chunk) + static_cast<uint32_t>(shift);
  if (!arguments.wraps && neighbour >= static_cast<uint32_t>(plan.all_chunks)) return kNoKey;
  // A neighbour farther away than there are chunks is the chunk itself, as in eager's slices.
  if (shift > plan.all_chunks || shift < -plan.all_chunks) shift = 0;
  // The window wraps around, across rounds. Unsigned: the sum stays below 2^32.
  const uint32_t all_chunks = static_cast<uint32_t>(plan.all_chunks);
  uint32_t wrapped = static_cast<uint32_t>(block.chunk) + static_cast<uint32_t>(shift) +
                     (shift < 0 ? all_chunks : 0);
  if (wrapped >= all_chunks) wrapped -= all_chunks;
  const int32_t chunk = static_cast<int32_t>(wrapped);
  const int32_t round = plan.by_round_chunks.divide(chunk);
  const int32_t round_chunk = plan.by_round_chunks.remainder(chunk, round);
  return position_at(arguments, plan, block, round, round_chunk * plan.chunk_length + in_chunk);
}

// Whether the window lies within the block's round and lists no chunk twice. A query's own position
// is then in its own chunk only, as each round has it once.
__device__ __forceinline__ bool lists_self_once(const AttentionPlan& plan,
                                                const AttentionBlock& block) {
  const int32_t round_chunk = plan.by_round_chunks.remainder(block.chunk, block.round);
  return round_chunk >= plan.before && plan.after < plan.round_chunks - round_chunk;
}

// Whether memory has a row of this position: neither virtual nor kNoKey.
__device__ __forceinline__ bool is_stored(const AttentionPlan& plan, int32_t position) {
  return static_cast<uint32_t>(position) < static_cast<uint32_t>(plan.length);
}

// Factor of a key's products, base 2; its sign bit hides the key from every query.
template <typename T>
__device__ __forceinline__ float find_scale(const AttentionArguments<T>& arguments,
                                            const AttentionPlan& plan, const AttentionBlock& block,
                                            int32_t position) {
  if (!is_stored(plan, position)) return -1.0f;
  if (arguments.is_lsh) {
    return arguments.key_scale[static_cast<int64_t>(block.pair) * plan.length + position];
  }
  const int64_t token = static_cast<int64_t>(block.batch) * plan.length + position;
  return arguments.mask[token] != 0 ? arguments.local_scale : -1.0f;
}

// A tile's place in the list of keys: the tile with the block's own rows comes first.
template <typename Tile>
__device__ __forceinline__ int32_t first_entry_of(const AttentionPlan& plan,
                                                  const AttentionBlock& block, int32_t tile) {
  const int32_t own = block.query_tile * (Tile::kQueryRows / Tile::kKeys);
  const int32_t left = plan.key_tiles - own;
  return (tile < left ? own + tile : tile - left) * Tile::kKeys;
}

// One thread's share of the positions and scales of kTiles tiles: a key or more, kThreads apart.
// They are read ahead of their use and stored later, so that the reads' latency passes behind the
// products.
template <typename Tile, int kTiles>
class KeyMetadata {
 public:
  using T = typename Tile::T;

  __device__ __forceinline__ void read_positions(const AttentionArguments<T>& arguments,
                                                 const AttentionPlan& plan,
                                                 const AttentionBlock& block, int32_t tile) {
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      if (!has_key(i)) continue;
      const int32_t own_tile = tile + own_key(i) / Tile::kKeys;
      const int32_t entry = first_entry_of<Tile>(plan, block, own_tile) + own_key(i) % Tile::kKeys;
      position_[i] = own_tile < plan.key_tiles ? find_key(arguments, plan, block, entry) : kNoKey;
    }
  }
  // Position of the thread's first key.
  __device__ __forceinline__ int32_t first_position() const { return position_[0]; }
  __device__ __forceinline__ void store_positions(const AttentionShared<Tile>& shared,
                                                  int32_t tile) const {
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      if (has_key(i)) shared.key_positions[own_entry(tile, i)] = position_[i];
    }
  }
  __device__ __forceinline__ void read_scales(const AttentionArguments<T>& arguments,
                                              const AttentionPlan& plan,
                                              const AttentionBlock& block) {
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      if (has_key(i)) scale_[i] = find_scale(arguments, plan, block, position_[i]);
    }
  }
  __device__ __forceinline__ void store_scales(const AttentionShared<Tile>& shared,
                                               int32_t tile) const {
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      if (!has_key(i)) continue;
      shared.key_scales[own_entry(tile, i)] = scale_[i];
      shared.key_visible[own_entry(tile, i)] = std::signbit(scale_[i]) ? kHiddenKey : position_[i];
    }
  }

 private:
  static constexpr int kKeys = kTiles * Tile::kKeys;
  static constexpr int kShare = (kKeys + Tile::kThreads - 1) / Tile::kThreads;

  // Its quotient and remainder by kKeys are known ahead as far as threads allow.
  static __device__ __forceinline__ int32_t own_key(int i) {
    const uint32_t thread = Tile::kThreads <= Tile::kKeys ? threadIdx.x % Tile::kKeys : threadIdx.x;
    return static_cast<int32_t>(thread) + i * Tile::kThreads;
  }
  static __device__ __forceinline__ bool has_key(int i) {
    return kKeys % Tile::kThreads == 0 || own_key(i) < kKeys;
  }
  static __device__ __forceinline__ int32_t own_entry(int32_t tile, int i) {
    return (tile * Tile::kKeys + own_key(i)) % (kMetadataTiles * Tile::kKeys);
  }

  int32_t position_[kShare] = {};
  float scale_[kShare] = {};
};

}  // namespace reformer::cuda
