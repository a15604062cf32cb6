// The tile of positions that one block of the sort has, and its ranking.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/sort/sort.h"

namespace reformer::cuda {

constexpr int kSortWarps = 8;
constexpr int kSortSteps =
    static_cast<int>(kSortTile) / (kSortWarps * kWarpSize);  // a lane's share

struct SortTile {
  int64_t index;    // among all tiles
  int64_t segment;  // among all segments
  int64_t first;    // of the segment's positions, in the order that the pass reads
  int size;         // kSortTile, or less at the end of a segment
};

__device__ __forceinline__ SortTile locate_tile(const SortArguments& arguments) {
  const int tiles = static_cast<int>(arguments.tiles);
  SortTile tile;
  tile.index = blockIdx.x;
  tile.segment = static_cast<int>(blockIdx.x) / tiles;
  tile.first = int64_t{static_cast<int>(blockIdx.x) % tiles} * kSortTile;
  const int64_t left = arguments.length - tile.first;
  tile.size = static_cast<int>(left < kSortTile ? left : kSortTile);
  return tile;
}

// Whether the segment was sorted by earlier passes. The first pass finds out how many there are.
__device__ __forceinline__ bool is_pass_idle(const SortArguments& arguments, const SortTile& tile,
                                             int pass) {
  return pass > 0 && pass >= arguments.segment_passes[tile.segment];
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

__device__ __forceinline__ int digit_of(uint32_t bucket, int pass) {
  return static_cast<int>((bucket >> (pass * kSortDigitBits)) & (kSortDigits - 1));
}

// Ranks a warp's positions among those of equal digit: step by step, lane by lane. Lanes without a
// position have the digit kSortDigits. counts [kSortDigits] is left with the warp's counts.
__device__ __forceinline__ void rank_in_warp(uint16_t* counts, const int32_t (&digits)[kSortSteps],
                                             int32_t (&ranks)[kSortSteps]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  unsigned same[kSortSteps];
#pragma unroll
  for (int step = 0; step < kSortSteps; ++step) {
    same[step] = __match_any_sync(kFullWarp, digits[step]);
  }
  for (int digit = lane; digit < kSortDigits; digit += kWarpSize) counts[digit] = 0;
  __syncwarp();
#pragma unroll
  for (int step = 0; step < kSortSteps; ++step) {
    const bool exists = digits[step] < kSortDigits;
    const int before = __popc(same[step] & ((1u << lane) - 1));
    const int earlier = exists ? counts[digits[step]] : 0;
    ranks[step] = earlier + before;
    __syncwarp();  // all have read before the first of them counts
    if (exists && before == 0) {
      counts[digits[step]] = static_cast<uint16_t>(earlier + __popc(same[step]));
    }
    __syncwarp();
  }
}

// counts [kSortWarps, kSortDigits]: every warp's count becomes the sum of those before it.
__device__ __forceinline__ void sum_over_warps(uint16_t* counts) {
  for (int digit = static_cast<int>(threadIdx.x); digit < kSortDigits;
       digit += static_cast<int>(blockDim.x)) {
    int sum = 0;
    for (int warp = 0; warp < kSortWarps; ++warp) {
      const int count = counts[warp * kSortDigits + digit];
      counts[warp * kSortDigits + digit] = static_cast<uint16_t>(sum);
      sum += count;
    }
  }
}

}  // namespace reformer::cuda
