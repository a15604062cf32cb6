// One round's buckets of a row, read by a block.
#pragma once

#include <cstdint>

#include "kernels/common/sizes.h"
#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

constexpr int kMostStepThreads = 512;
constexpr int kMostStepWarps = kMostStepThreads / kWarpSize;

__device__ __forceinline__ uint32_t step_lane() { return threadIdx.x % kWarpSize; }
__device__ __forceinline__ uint32_t step_warp() { return threadIdx.x / kWarpSize; }
__device__ __forceinline__ uint32_t count_step_warps() { return blockDim.x / kWarpSize; }

__device__ __forceinline__ uint32_t sum_over_warp(uint32_t value) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, step);
  }
  return value;
}
__device__ __forceinline__ uint32_t max_over_warp(uint32_t value) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    value = max(value, __shfl_xor_sync(kFullWarp, value, step));
  }
  return value;
}

// Compared as unsigned: a negative bucket sorts behind the others.
struct RoundBuckets {
  Global<const int32_t> held;  // [length - 1]
  uint32_t fresh;              // of the new token, the last one
  uint32_t length;
};

// visit(bucket, position, exists) for the warp's share of the buckets, by all of its lanes
// together, positions in ascending order.
template <typename Visit>
__device__ __forceinline__ void visit_buckets(const RoundBuckets& round, const Visit& visit) {
  constexpr uint32_t kAhead = 16;  // loads under way at once
  constexpr uint32_t kLanes = kWarpSize;
  const uint32_t share = round_up(divide_up(round.length, count_step_warps()), kLanes);
  const uint32_t begin = step_warp() * share;
  const uint32_t end = min(begin + share, round.length);
  for (uint32_t start = begin; start < end; start += kAhead * kLanes) {
    uint32_t buckets[kAhead];
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t position = start + i * kLanes + step_lane();
      buckets[i] = position < end && position + 1 < round.length
                       ? static_cast<uint32_t>(round.held[position])
                       : round.fresh;
    }
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t first = start + i * kLanes;
      if (first >= end) break;
      visit(buckets[i], first + step_lane(), first + step_lane() < end);
    }
  }
}

}  // namespace reformer::cuda
