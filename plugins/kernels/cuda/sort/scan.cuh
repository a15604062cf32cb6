// What every kernel of the sort counts with.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

// Exclusive prefix sum of one value a thread. warp_sums: one a warp, which nobody else uses.
__device__ __forceinline__ int32_t sum_before(int32_t value, int32_t* warp_sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int32_t sum = value;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int32_t below = __shfl_up_sync(kFullWarp, sum, static_cast<unsigned>(step));
    if (lane >= step) sum += below;
  }
  if (lane == kWarpSize - 1) warp_sums[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += warp_sums[w];
  return sum - value;
}

// Which lanes have each lane's digit, of `width` bits, for kSteps digits a lane. A digit below 0
// takes no part, and what its own lane is told means nothing. By votes, a bit at a time:
// __match_any_sync is no instruction, but a loop over the values that occur.
template <int kSteps>
__device__ __forceinline__ void match_digits(const int32_t (&digits)[kSteps], int width,
                                             unsigned (&same)[kSteps]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    same[step] = __ballot_sync(kFullWarp, digits[step] >= 0);
  }
#pragma unroll 1
  for (int bit = 0; bit < width; ++bit) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const bool set = ((digits[step] >> bit) & 1) != 0;
      const unsigned votes = __ballot_sync(kFullWarp, set);
      same[step] &= set ? votes : ~votes;
    }
  }
}

// Ranks digits among the warp's equal ones, which match_digits found: step by step, lane by lane.
// `counts` holds how often each digit came before, and then how often it has come.
template <int kSteps>
__device__ __forceinline__ void rank_digits(uint16_t* counts, const int32_t (&digits)[kSteps],
                                            const unsigned (&same)[kSteps],
                                            int32_t (&ranks)[kSteps]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const bool exists = digits[step] >= 0;
    const int before = __popc(same[step] & ((1u << lane) - 1));
    const int earlier = exists ? counts[digits[step]] : 0;
    ranks[step] = earlier + before;
    __syncwarp();  // all have read before the first of them counts
    if (exists && before == 0) {
      counts[digits[step]] = static_cast<uint16_t>(earlier + __popc(same[step]));
    }
    __syncwarp();  // it has counted before anybody reads for the next step
  }
}

}  // namespace reformer::cuda
