#include <algorithm>
#include <new>

#include "kernels/cpu/attend.h"

namespace reformer {
namespace {

// Packed tiles a worker keeps at most, bytes: about what a second-level cache holds.
constexpr size_t kTileCacheBytes = size_t{2} << 20;

// Enough for the whole window, so that the next chunk finds what it shares with this one; at least
// a segment, whose tiles are all in use at once.
size_t count_tiles(const AttentionSizes& sizes, size_t width) {
  const int64_t per_chunk = divide_up(sizes.chunk_length, static_cast<int64_t>(kTileKeys));
  const size_t window = static_cast<size_t>((sizes.before + 1 + sizes.after) * per_chunk);
  const size_t tile_bytes = 2 * kTileKeys * width * sizeof(float);
  return std::min(window, std::max(kSegmentTiles, kTileCacheBytes / tile_bytes));
}

}  // namespace

AttendScratch layout_attend_scratch(const AttentionSizes& sizes, WorkspaceArena& arena) {
  const size_t width = round_up(static_cast<size_t>(sizes.head_size), kLanes);
  AttendScratch scratch{};
  scratch.num_tiles = count_tiles(sizes, width);
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
    tile.fill = arena.allocate<float>(kTileKeys);
    tile.tag = tile.stamp = -1;
    if (scratch.tiles != nullptr) new (scratch.tiles + i) KeyTile(tile);
  }
  return scratch;
}

}  // namespace reformer
