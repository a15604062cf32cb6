#include <algorithm>
#include <new>

#include "kernels/cpu/attend.h"

namespace reformer {
namespace {

// Packed tiles a worker keeps at most, bytes: about what a second-level cache holds.
constexpr size_t kTileCacheBytes = size_t{2} << 20;
// Of a strip's: with room for the rest of what is in use.
constexpr size_t kStripBytes = size_t{1} << 20;

size_t tile_bytes(const AttentionSizes& sizes) {
  const size_t width = round_up(static_cast<size_t>(sizes.head_size), kLanes);
  return 2 * kTileKeys * width * sizeof(float);
}

size_t window_tiles(const AttentionSizes& sizes) {
  const int64_t per_chunk = divide_up(sizes.chunk_length, static_cast<int64_t>(kTileKeys));
  return static_cast<size_t>((sizes.before + 1 + sizes.after) * per_chunk);
}

// Enough for the whole windows of a strip, so that the next chunk finds what it shares with this
// one; at least a segment, whose tiles are all in use at once. A smaller window never needs more.
size_t count_tiles(const AttendJob& job) {
  const size_t window = window_tiles(job.sizes);
  const size_t heads = needs_order(job) ? 1 : static_cast<size_t>(job.sizes.heads);
  const size_t side_by_side = std::max(window, kStripBytes / tile_bytes(job.sizes));
  const size_t cached = std::max(kSegmentTiles, kTileCacheBytes / tile_bytes(job.sizes));
  return std::min({window * heads, side_by_side, cached});
}

}  // namespace

int64_t choose_strip(const AttendJob& job) {
  if (needs_order(job)) return 1;
  const size_t window_bytes = window_tiles(job.sizes) * tile_bytes(job.sizes);
  const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kStripBytes / window_bytes));
  return divide_up(job.sizes.heads, divide_up(job.sizes.heads, most));
}

AttendScratch layout_attend_scratch(const AttendJob& job, WorkspaceArena& arena) {
  const size_t width = round_up(static_cast<size_t>(job.sizes.head_size), kLanes);
  AttendScratch scratch{};
  scratch.num_tiles = count_tiles(job);
  scratch.tiles = arena.allocate<KeyTile>(scratch.num_tiles);
  const size_t segment_keys = std::min(scratch.num_tiles, kSegmentTiles) * kTileKeys;
  scratch.query = arena.allocate<float>(kQueryRows * width);
  scratch.result = arena.allocate<float>(kQueryRows * width);
  scratch.rows = arena.allocate<float>(kTileKeys * width);
  scratch.logits = arena.allocate<float>(kQueryRows * segment_keys);
  scratch.positions = arena.allocate<int32_t>(kQueryRows);
  scratch.segment_positions = arena.allocate<int32_t>(segment_keys);
  scratch.segment_visible = arena.allocate<int32_t>(segment_keys);
  scratch.segment_fill = arena.allocate<float>(segment_keys);
  scratch.row_max = arena.allocate<float>(kQueryRows);
  scratch.row_sum = arena.allocate<float>(kQueryRows);
  scratch.old_scale = arena.allocate<float>(kQueryRows);
  scratch.new_scale = arena.allocate<float>(kQueryRows);
  for (size_t i = 0; i < scratch.num_tiles; ++i) {
    KeyTile tile{};
    tile.keys = arena.allocate<float>(kTileKeys * width);
    tile.values = arena.allocate<float>(kTileKeys * width);
    tile.positions = arena.allocate<int32_t>(kTileKeys);
    tile.visible = arena.allocate<int32_t>(kTileKeys);
    tile.seen_from = arena.allocate<int32_t>(kTileKeys);
    tile.fill = arena.allocate<float>(kTileKeys);
    tile.tag = tile.stamp = -1;
    if (scratch.tiles != nullptr) new (scratch.tiles + i) KeyTile(tile);
  }
  return scratch;
}

}  // namespace reformer
