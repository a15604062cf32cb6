// A stable sort of a whole segment by one block, in shared memory: positions of 16 bits, a radix
// pass for every 10 bits of the segment's highest bucket. Usual bucket numbers need one.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/sort/scan.cuh"
#include "kernels/cuda/sort/sort.h"

namespace reformer::cuda {

constexpr int kBlockSortWarps = kBlockSortThreads / kWarpSize;
constexpr int kBlockSortSteps = static_cast<int>(kBlockSortLength) / kBlockSortThreads;
constexpr int kBlockSortBatch = 4;  // steps that a warp ranks at once, to have more to do meanwhile
constexpr int kBlockDigitBits = 10;
constexpr int kBlockDigits = 1 << kBlockDigitBits;
static_assert(kBlockDigits == 2 * kBlockSortThreads, "a thread sums up two digits");
static_assert(kBlockSortLength <= kBlockSortWarps * kBlockDigits, "places fit where counts were");

// Counts of two neighbouring digits.
struct alignas(4) DigitPair {
  uint16_t low;
  uint16_t high;
};

struct BlockSortShared {
  DigitPair* counts;       // [kBlockSortWarps, kBlockDigits / 2]
  uint16_t* places;        // [kBlockSortLength], positions as sorted; where the counts were
  int32_t* warp_sums;      // [kBlockSortWarps]
  uint32_t* warp_highest;  // [kBlockSortWarps]
};

constexpr size_t kBlockSortBytes = kBlockSortWarps * kBlockDigits * sizeof(uint16_t) +
                                   kBlockSortWarps * (sizeof(int32_t) + sizeof(uint32_t));

__device__ __forceinline__ BlockSortShared layout_block_sort() {
  BlockSortShared shared;
  shared.counts = reinterpret_cast<DigitPair*>(dynamic_shared());
  shared.places = reinterpret_cast<uint16_t*>(shared.counts);
  shared.warp_sums =
      reinterpret_cast<int32_t*>(shared.places + kBlockSortWarps * int{kBlockDigits});
  shared.warp_highest = reinterpret_cast<uint32_t*>(shared.warp_sums + kBlockSortWarps);
  return shared;
}

// The highest of what the block's threads pass.
__device__ __forceinline__ uint32_t find_highest(uint32_t value, uint32_t* warp_highest) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    value = max(value, __shfl_xor_sync(kFullWarp, value, step));
  }
  if (threadIdx.x % kWarpSize == 0) warp_highest[threadIdx.x / kWarpSize] = value;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kBlockSortWarps; ++warp) value = max(value, warp_highest[warp]);
  return value;
}

// counts become, for every warp, where its first position of each digit goes. pairs: of digits.
__device__ __forceinline__ void find_starts(const BlockSortShared& shared, int pairs) {
  const int thread = static_cast<int>(threadIdx.x);
  DigitPair* counts = shared.counts + thread;
  constexpr int kStride = kBlockDigits / 2;
  DigitPair own[kBlockSortWarps] = {};
  int32_t low = 0;
  int32_t high = 0;
  if (thread < pairs) {
#pragma unroll
    for (int warp = 0; warp < kBlockSortWarps; ++warp) own[warp] = counts[warp * kStride];
#pragma unroll
    for (int warp = 0; warp < kBlockSortWarps; ++warp) {
      low += own[warp].low;
      high += own[warp].high;
    }
  }
  int32_t low_start = sum_before(low + high, shared.warp_sums);
  int32_t high_start = low_start + low;
  if (thread >= pairs) return;
#pragma unroll
  for (int warp = 0; warp < kBlockSortWarps; ++warp) {
    counts[warp * kStride] = {static_cast<uint16_t>(low_start), static_cast<uint16_t>(high_start)};
    low_start += own[warp].low;
    high_start += own[warp].high;
  }
}

// One thread's share of a segment. A warp has consecutive slots of the order so far, 32 a step, so
// that ranks follow the order they come in.
class BlockSort {
 public:
  __device__ __forceinline__ BlockSort(const SortArguments& arguments, int64_t segment)
      : shared_(layout_block_sort()),
        buckets_(arguments.buckets + segment * arguments.length),
        order_(arguments.order + segment * arguments.length),
        length_(static_cast<int>(arguments.length)),
        steps_((length_ + kBlockSortThreads - 1) / kBlockSortThreads),
        warp_(static_cast<int>(threadIdx.x) / kWarpSize),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize) {}

  __device__ __forceinline__ void run() {
    uint32_t highest = 0;
    for_each_step([&](int step, int slot) {
      set_position(step, slot);
      keys_[step] = buckets_[slot];
      highest = max(highest, static_cast<uint32_t>(keys_[step]));
    });
    highest = find_highest(highest, shared_.warp_highest);
    const int bits = max(1, 32 - __clz(static_cast<int>(highest)));
    for (int shift = 0;;) {
      const int width = min(bits - shift, int{kBlockDigitBits});
      place_positions(shift, width);
      shift += width;
      if (shift == bits) break;
      for_each_step([&](int step, int slot) {
        const int position = shared_.places[slot];
        set_position(step, position);
        keys_[step] = buckets_[position];
      });
      __syncthreads();  // counts will be where the places are
    }
    for (int i = warp_ * kWarpSize + lane_; i < length_; i += kBlockSortThreads) {
      order_[i] = shared_.places[i];
    }
  }

 private:
  __device__ __forceinline__ int find_slot(int step) const {
    return (warp_ * steps_ + step) * kWarpSize + lane_;
  }
  __device__ __forceinline__ bool has_slot(int step) const {
    return step < steps_ && find_slot(step) < length_;
  }

  // Two steps' positions share a register; the first is set first.
  __device__ __forceinline__ void set_position(int step, int position) {
    const uint32_t bits = static_cast<uint32_t>(position);
    positions_[step / 2] = step % 2 == 0 ? bits : positions_[step / 2] | (bits << 16);
  }

  // visit(step, slot) for the steps in which the thread has a slot. Unrolled, so that arrays stay
  // in registers.
  template <typename Visit>
  __device__ __forceinline__ void for_each_step(const Visit& visit) {
#pragma unroll
    for (int step = 0; step < kBlockSortSteps; ++step) {
      if (step % kBlockSortBatch == 0 && step >= steps_) break;
      if (has_slot(step)) visit(step, find_slot(step));
    }
  }

  // The key of every step, a bucket, becomes its digit and its rank in the warp.
  __device__ __forceinline__ void rank_positions(int shift, int width) {
    DigitPair* own = shared_.counts + warp_ * (kBlockDigits / 2);
    const int32_t mask = (1 << width) - 1;
#pragma unroll
    for (int first = 0; first < kBlockSortSteps; first += kBlockSortBatch) {
      if (first >= steps_) break;
      int32_t digits[kBlockSortBatch];
      int32_t ranks[kBlockSortBatch];
#pragma unroll
      for (int i = 0; i < kBlockSortBatch; ++i) {
        const uint32_t bucket = static_cast<uint32_t>(keys_[first + i]);
        digits[i] = has_slot(first + i) ? static_cast<int32_t>(bucket >> shift) & mask : -1;
      }
      unsigned same[kBlockSortBatch];
      match_digits(digits, width, same);
      if (first == 0) {
        for (int pair = lane_; pair < (1 << width) / 2; pair += kWarpSize) own[pair] = {0, 0};
        __syncwarp();
      }
      rank_digits(reinterpret_cast<uint16_t*>(own), digits, same, ranks);
#pragma unroll
      for (int i = 0; i < kBlockSortBatch; ++i) keys_[first + i] = digits[i] | (ranks[i] << 16);
    }
  }

  // One pass: positions to shared_.places, sorted by the digit.
  __device__ __forceinline__ void place_positions(int shift, int width) {
    rank_positions(shift, width);
    __syncthreads();  // every warp has counted
    find_starts(shared_, (1 << width) / 2);
    __syncthreads();  // every start is there
    const uint16_t* starts =
        reinterpret_cast<const uint16_t*>(shared_.counts) + warp_ * kBlockDigits;
    for_each_step([&](int step, int /*slot*/) {
      keys_[step] = starts[keys_[step] & 0xFFFF] + (keys_[step] >> 16);
    });
    __syncthreads();  // places will be where the starts are
    for_each_step([&](int step, int /*slot*/) {
      shared_.places[keys_[step]] = static_cast<uint16_t>(positions_[step / 2] >> (step % 2 * 16));
    });
    __syncthreads();
  }

  BlockSortShared shared_;
  Global<const int32_t> buckets_;
  Global<int32_t> order_;
  int length_;
  int steps_;  // a warp's
  int warp_;
  int lane_;
  uint32_t positions_[kBlockSortSteps / 2];
  int32_t keys_[kBlockSortSteps] = {};
};

}  // namespace reformer::cuda
