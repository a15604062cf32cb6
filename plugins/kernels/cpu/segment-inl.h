// Which keys a block of queries takes together. Compiled per target.
#if defined(REFORMER_SEGMENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_SEGMENT_INL_H_
#undef REFORMER_SEGMENT_INL_H_
#else
#define REFORMER_SEGMENT_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/key_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

constexpr size_t kRowGroups = kQueryRows / kGroupRows;

// A block of queries: `rows` consecutive entries of one chunk of a pair's order.
struct QueryBlock {
  int64_t pair;
  int64_t chunk;  // among all rounds' chunks
  int64_t first_row;
  size_t rows;                       // without virtual padding
  int32_t group_limits[kRowGroups];  // last position that each group's queries see

  int32_t limit() const { return *std::max_element(group_limits, group_limits + kRowGroups); }
};

// Tiles whose logits are computed together.
struct Segment {
  const KeyTile* tiles[kSegmentTiles];
  size_t keys[kSegmentTiles][kRowGroups];  // of each tile, the first ones that a group may see
  size_t offsets[kSegmentTiles];           // first column of each tile
  size_t count;
  size_t columns;
};

// The queries of a causal block see nothing behind their own positions.
HWY_INLINE void limit_groups(const AttentionSizes& sizes, const int32_t* positions,
                             QueryBlock* block) {
  for (size_t row = 0; row < kQueryRows; row += kGroupRows) {
    const size_t end = std::min(row + kGroupRows, block->rows);
    const int32_t last = row < end ? *std::max_element(positions + row, positions + end) : -1;
    block->group_limits[row / kGroupRows] = sizes.causal ? last : kNoLimit;
  }
}

// Every key of the tile, or those that a query of the block may see.
HWY_INLINE void add_tile(const KeyTile& tile, const QueryBlock& block, bool skip_hidden,
                         const AttendScratch& scratch, Segment* segment) {
  size_t* keys = segment->keys[segment->count];
  for (size_t group = 0; group < kRowGroups; ++group) {
    keys[group] = skip_hidden ? count_seen(tile, block.group_limits[group]) : tile.count;
  }
  const size_t columns = round_up(*std::max_element(keys, keys + kRowGroups), kLanes);
  std::copy(tile.positions, tile.positions + columns, scratch.segment_positions + segment->columns);
  std::copy(tile.visible, tile.visible + columns, scratch.segment_visible + segment->columns);
  std::copy(tile.fill, tile.fill + columns, scratch.segment_fill + segment->columns);
  segment->tiles[segment->count] = &tile;
  segment->offsets[segment->count++] = segment->columns;
  segment->columns += columns;
}

// Adds the next kSegmentTiles tiles of the window, from `next` on: not more where some are left
// out, so that what a query sees is summed in the same parts whatever else its block has.
// `skip_hidden` leaves out tiles, and the rest of a tile, that no query of the block may see. False
// at the window's end.
HWY_INLINE bool collect_segment(const AttendJob& job, const QueryBlock& block, bool skip_hidden,
                                int64_t* next, AttendScratch& scratch, Segment* segment) {
  const AttentionSizes& sizes = job.sizes;
  const int64_t tile_keys = static_cast<int64_t>(kTileKeys);
  const int64_t per_chunk = divide_up(sizes.chunk_length, tile_keys);
  const int64_t chunks = sizes.rounds * (sizes.padded_length / sizes.chunk_length);
  const int64_t window_tiles = (sizes.before + 1 + sizes.after) * per_chunk;
  const int32_t limit = block.limit();
  segment->count = segment->columns = 0;
  const int64_t end = std::min(*next + static_cast<int64_t>(kSegmentTiles), window_tiles);
  for (; *next < end; ++*next) {
    // The window wraps around, across rounds; it may list a chunk more than once. A neighbour that
    // is farther away than there are chunks is the chunk itself, as in eager's slices.
    const int64_t wanted = *next / per_chunk - sizes.before;
    const bool beyond = block.chunk + wanted < 0 || block.chunk + wanted >= chunks;
    if (beyond && !sizes.wraps) continue;
    const int64_t shift = wanted > chunks || wanted < -chunks ? 0 : wanted;
    const int64_t chunk = ((block.chunk + shift) % chunks + chunks) % chunks;
    const int64_t tile_first = chunk * sizes.chunk_length + *next % per_chunk * tile_keys;
    if (skip_hidden && job.order == nullptr && tile_first > limit) continue;  // later, all of it
    const KeyTile& tile = fetch_tile(job, block.pair, chunk, *next % per_chunk, scratch);
    if (skip_hidden && tile.min_visible > limit) continue;
    add_tile(tile, block, skip_hidden, scratch, segment);
  }
  return *next < window_tiles;
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
