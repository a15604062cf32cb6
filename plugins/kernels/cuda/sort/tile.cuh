// The tile of positions that one block of the long sort has.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/sort/sort.h"

namespace reformer::cuda {

constexpr int kSortWarps = 8;
constexpr int kSortThreads = kSortWarps * kWarpSize;
constexpr int kSortSteps = static_cast<int>(kSortTile) / kSortThreads;  // a lane's share

struct SortTile {
  int64_t index;    // among all tiles
  int64_t segment;  // among all segments
  int64_t first;    // of the segment's positions, in the order that the pass reads
  int size;         // kSortTile, or less at the end of a segment
};

// The tile of a segment; `tile` counts within it.
__device__ __forceinline__ SortTile locate_tile(const SortArguments& arguments, int64_t segment,
                                                int64_t tile) {
  SortTile result;
  result.index = segment * arguments.tiles + tile;
  result.segment = segment;
  result.first = tile * kSortTile;
  const int64_t left = arguments.length - result.first;
  result.size = static_cast<int>(left < kSortTile ? left : kSortTile);
  return result;
}

// The tile of a block when every tile has one.
__device__ __forceinline__ SortTile locate_own_tile(const SortArguments& arguments) {
  const int tiles = static_cast<int>(arguments.tiles);
  return locate_tile(arguments, static_cast<int>(blockIdx.x) / tiles,
                     static_cast<int>(blockIdx.x) % tiles);
}

// Where a pass writes, [L]: alternating, and the last one into `order`.
__device__ __forceinline__ Global<int32_t> choose_target(const SortArguments& arguments,
                                                         const SortTile& tile, int pass) {
  const int later = arguments.segment_passes[tile.segment] - 1 - pass;
  return (later % 2 == 0 ? arguments.order : arguments.spare) + tile.segment * arguments.length;
}

// The tile's i-th position, in the order that the pass reads.
__device__ __forceinline__ int32_t read_position(const SortArguments& arguments,
                                                 const SortTile& tile, int pass, int i) {
  const int64_t place = tile.first + i;
  if (pass == 0) return static_cast<int32_t>(place);
  return choose_target(arguments, tile, pass - 1)[place];
}

__device__ __forceinline__ uint32_t read_bucket(const SortArguments& arguments,
                                                const SortTile& tile, int32_t position) {
  return static_cast<uint32_t>(arguments.buckets[tile.segment * arguments.length + position]);
}

__device__ __forceinline__ int32_t digit_of(uint32_t bucket, int pass) {
  return static_cast<int32_t>((bucket >> (pass * kSortDigitBits)) & (kSortDigits - 1));
}

}  // namespace reformer::cuda
