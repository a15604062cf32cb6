// Entries of a sorted order that is never made: ranks are counted, and the buckets at two ranks are
// found by their digits, the highest first.
#pragma once

#include <cstdint>

#include "kernels/common/sizes.h"
#include "kernels/cuda/device/device.h"
#include "kernels/cuda/step/buckets.cuh"
#include "kernels/cuda/step/window.cuh"

namespace reformer::cuda {

constexpr uint32_t kStepKeys = 1024;  // of a window, listed at once
constexpr int kRankDigitBits = 8;
constexpr int kRankBins = 1 << kRankDigitBits;
constexpr int kRankPasses = 32 / kRankDigitBits;
constexpr int kLaneBins = kRankBins / kWarpSize;

// Nothing is written again before a barrier that those who read it have passed: bins and counts
// have a place for every pass, surveys two in turn.
struct alignas(16) RankShared {
  uint32_t bins[kRankPasses * 2 * kRankBins];  // of a pass, the first rank's and the last one's
  uint32_t survey_counts[2][kMostStepWarps];
  uint32_t survey_highest[2][kMostStepWarps];
  uint32_t part_counts[3][kMostStepWarps];
  int32_t positions[kStepKeys];
};

struct Survey {
  uint32_t not_greater;  // buckets at most the new token's, which counts itself
  uint32_t highest;
};

// `turn` alternates between 0 and 1.
__device__ __forceinline__ Survey survey_round(const RoundBuckets& round, int turn,
                                               RankShared& shared) {
  Survey own{0, 0};
  visit_buckets(round, [&](uint32_t bucket, uint32_t /*position*/, bool exists) {
    if (!exists) return;
    own.not_greater += bucket <= round.fresh ? 1 : 0;
    own.highest = max(own.highest, bucket);
  });
  own.not_greater = sum_over_warp(own.not_greater);
  own.highest = max_over_warp(own.highest);
  if (step_lane() == 0) {
    shared.survey_counts[turn][step_warp()] = own.not_greater;
    shared.survey_highest[turn][step_warp()] = own.highest;
  }
  __syncthreads();
  const bool counts = step_lane() < count_step_warps();
  return {sum_over_warp(counts ? shared.survey_counts[turn][step_lane()] : 0),
          max_over_warp(counts ? shared.survey_highest[turn][step_lane()] : 0)};
}

// The bucket at a rank, or its highest digits, and how many buckets are below.
struct Ranked {
  uint32_t bucket;
  uint32_t below;
};

// Counts a bin of every lane that `counts`. Lanes that agree, as all do where buckets are few, do
// not wait for one another.
__device__ __forceinline__ void count_bin(uint32_t* bins, uint32_t bin, bool counts) {
  const unsigned counting = __ballot_sync(kFullWarp, counts);
  if (counting == 0) return;
  const int first = __ffs(static_cast<int>(counting)) - 1;
  const uint32_t first_bin = __shfl_sync(kFullWarp, bin, first);
  if (__all_sync(kFullWarp, !counts || bin == first_bin)) {
    if (static_cast<int>(step_lane()) == first) {
      atomicAdd(&bins[bin], static_cast<uint32_t>(__popc(counting)));
    }
  } else if (counts) {
    atomicAdd(&bins[bin], 1u);
  }
}

// Appends the digit of `width` bits that the bucket at `rank` has. Every warp does it for itself.
__device__ __forceinline__ Ranked append_digit(const uint32_t* bins, int width, uint32_t rank,
                                               const Ranked& so_far) {
  const uint32_t lane = step_lane();
  uint32_t own[kLaneBins];
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneBins; i += 4) {
    const auto part = *reinterpret_cast<const Vector16*>(bins + lane * kLaneBins + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += own[i + j] = part.words[j];
  }
  uint32_t end = sum;  // of the lanes up to this one
#pragma unroll
  for (unsigned step = 1; step < kWarpSize; step *= 2) {
    const uint32_t added = __shfl_up_sync(kFullWarp, end, step);
    end += lane >= step ? added : 0;
  }
  const uint32_t wanted = rank - so_far.below;
  uint32_t bin = lane * kLaneBins;
  uint32_t below = end - sum;
  const bool here = below <= wanted && wanted < end;
  uint32_t next = below;
#pragma unroll
  for (uint32_t i = 0; i + 1 < kLaneBins; ++i) {
    next += own[i];
    if (next <= wanted) {
      bin = lane * kLaneBins + i + 1;
      below = next;
    }
  }
  const int source = __ffs(static_cast<int>(__ballot_sync(kFullWarp, here))) - 1;
  return {(so_far.bucket << width) | __shfl_sync(kFullWarp, bin, source),
          so_far.below + __shfl_sync(kFullWarp, below, source)};
}

// The buckets at a range's first and last rank; `highest` is the round's.
struct RangeEnds {
  Ranked first;
  Ranked last;
};

__device__ __forceinline__ RangeEnds find_ends(const RoundBuckets& round, uint32_t highest,
                                               const RankRange& range, RankShared& shared) {
  const int bits = 32 - __clz(static_cast<int>(highest));
  const int passes = divide_up(bits, kRankDigitBits);
  for (int i = static_cast<int>(threadIdx.x); i < passes * 2 * kRankBins;
       i += static_cast<int>(blockDim.x)) {
    shared.bins[i] = 0;
  }
  __syncthreads();
  RangeEnds ends{{0, 0}, {0, 0}};
  int shift = bits;
  for (int pass = 0; pass < passes; ++pass) {
    const int width = min(kRankDigitBits, shift);
    shift -= width;
    const bool apart = ends.first.bucket != ends.last.bucket;
    uint32_t* first_bins = shared.bins + 2 * pass * kRankBins;
    uint32_t* last_bins = first_bins + (apart ? kRankBins : 0);
    visit_buckets(round, [&](uint32_t bucket, uint32_t /*position*/, bool exists) {
      const uint32_t prefix = bucket >> shift >> width;
      const uint32_t bin = (bucket >> shift) & ((1u << width) - 1);
      count_bin(first_bins, bin, exists && prefix == ends.first.bucket);
      if (apart) count_bin(last_bins, bin, exists && prefix == ends.last.bucket);
    });
    __syncthreads();
    ends.first = append_digit(first_bins, width, range.begin, ends.first);
    ends.last = append_digit(last_bins, width, range.end - 1, ends.last);
  }
  return ends;
}

// Where a bucket is in a range: 0 at its first bucket, 1 between, 2 at its last, 3 nowhere.
__device__ __forceinline__ int find_part(const RangeEnds& ends, uint32_t bucket) {
  if (bucket == ends.first.bucket) return 0;
  if (bucket == ends.last.bucket) return 2;
  return bucket > ends.first.bucket && bucket < ends.last.bucket ? 1 : 3;
}

// The rank of the warp's first token of each part. Those between, which are in no order, have one
// another's.
struct PartRanks {
  uint32_t at[3];
};

__device__ __forceinline__ PartRanks count_parts(const RoundBuckets& round, const RangeEnds& ends,
                                                 RankShared& shared) {
  const uint32_t lane = step_lane();
  uint32_t counts[3] = {};
  visit_buckets(round, [&](uint32_t bucket, uint32_t /*position*/, bool exists) {
    const int part = exists ? find_part(ends, bucket) : 3;
#pragma unroll
    for (int i = 0; i < 3; ++i) counts[i] += part == i ? 1 : 0;
  });
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    counts[i] = sum_over_warp(counts[i]);
    if (lane == 0) shared.part_counts[i][step_warp()] = counts[i];
  }
  __syncthreads();
  const bool of_warp = lane < count_step_warps();
  PartRanks ranks = {{ends.first.below, ends.first.below, ends.last.below}};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const uint32_t count = of_warp ? shared.part_counts[i][lane] : 0;
    ranks.at[i] += sum_over_warp(lane < step_warp() ? count : 0);
    if (i == 0) ranks.at[1] += sum_over_warp(count);
  }
  return ranks;
}

// Lists the positions that have the range's ranks: those of its first bucket, of those between, of
// its last one; each in ascending order, so that the list does not depend on who came first.
__device__ __forceinline__ void list_positions(const RoundBuckets& round, const RangeEnds& ends,
                                               const RankRange& range, RankShared& shared) {
  const unsigned lower_lanes = (1u << step_lane()) - 1;
  PartRanks next = count_parts(round, ends, shared);
  visit_buckets(round, [&](uint32_t bucket, uint32_t position, bool exists) {
    const int part = exists ? find_part(ends, bucket) : 3;
    if (!__any_sync(kFullWarp, part < 3)) return;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const unsigned members = __ballot_sync(kFullWarp, part == i);
      const uint32_t rank = next.at[i] + static_cast<uint32_t>(__popc(members & lower_lanes));
      if (part == i && rank >= range.begin && rank < range.end) {
        shared.positions[rank - range.begin] = static_cast<int32_t>(position);
      }
      next.at[i] += static_cast<uint32_t>(__popc(members));
    }
  });
  __syncthreads();
}

}  // namespace reformer::cuda
