// The order in which each round of hashing lists its positions. Not CUB: its segmented radix sort
// gives a segment one block however long, its segmented sort waits for the device, and neither
// could run on the emulated device that tests this one.
//
// Up to kBlockSortLength positions, a block sorts a segment in shared memory, as a part of
// launch_preparation (../prepare.h). Longer segments are sorted by launch_long_sort.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

constexpr int kBlockSortThreads = 512;
constexpr int64_t kBlockSortLength = 16384;  // positions; they and their counts fit in 32 KiB

constexpr int kSortDigitBits = 11;
constexpr int kSortDigits = 1 << kSortDigitBits;
constexpr int64_t kSortTile = 2048;  // positions of a long segment that a block sorts at once

// "Segment" is one (batch, head, round).
struct SortArguments {
  Global<const int32_t> buckets;  // [segments, L], compared as unsigned
  Global<int32_t> order;          // [segments, L], output: positions by (bucket, position)
  int64_t segments = 0;
  int64_t length = 0;

  // Long segments alone:
  Global<int32_t> spare;           // [segments, L]
  Global<int32_t> tile_counts;     // [segments, tiles, kSortDigits]
  Global<int32_t> digit_starts;    // [segments, kSortDigits]
  Global<uint32_t> tile_highest;   // [segments, tiles], highest bucket
  Global<int32_t> segment_passes;  // [segments], passes that do work
  int64_t tiles = 0;               // a segment

  bool is_long() const { return length > kBlockSortLength; }
};

// Enqueues the sort of segments of any length; the sizes must be filled in, and all arrays.
reformer_status launch_long_sort(const SortArguments& arguments, void* stream);

}  // namespace reformer::cuda
