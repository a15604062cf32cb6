// The order in which each round of hashing lists its positions. Not CUB: its segmented radix sort
// gives a segment one block however long, its segmented sort waits for the device, and neither
// could run on the emulated device that tests this one.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

constexpr int kSortDigitBits = 11;
constexpr int kSortDigits = 1 << kSortDigitBits;
constexpr int kSortPasses = 3;       // 33 bits: any bucket
constexpr int64_t kSortTile = 2048;  // positions a block sorts at once

// "Segment" is one (batch, head, round).
struct SortArguments {
  Global<const int32_t> buckets;   // [segments, L], compared as unsigned
  Global<int32_t> order;           // [segments, L], output: positions by (bucket, position)
  Global<int32_t> spare;           // [segments, L]
  Global<int32_t> tile_counts;     // [segments, tiles, kSortDigits]
  Global<int32_t> digit_starts;    // [segments, kSortDigits]
  Global<uint32_t> tile_highest;   // [segments, tiles], highest bucket
  Global<int32_t> segment_passes;  // [segments], passes that do work
  int64_t segments = 0;
  int64_t length = 0;
  int64_t tiles = 0;  // a segment
};

// Enqueues the sort; the inputs' sizes must be filled in, and all arrays.
reformer_status launch_sort(const SortArguments& arguments, void* stream);

}  // namespace reformer::cuda
