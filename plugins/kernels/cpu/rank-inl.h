// Entries of a sorted order that is never made: by counting over the buckets. Compiled per target.
#if defined(REFORMER_RANK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_RANK_INL_H_
#undef REFORMER_RANK_INL_H_
#else
#define REFORMER_RANK_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

constexpr size_t kPivots = 8;  // values that one pass counts below

// counts[i] = how many of `length` buckets are below pivots[i]; returns the largest bucket.
HWY_NOINLINE int32_t count_below(const int32_t* HWY_RESTRICT buckets, size_t length,
                                 const int32_t (&pivots)[kPivots], int64_t (&counts)[kPivots]) {
  const I32 di;
  const size_t lanes = hn::Lanes(di);
  using V = hn::Vec<I32>;
  V pivot[kPivots];
  V below[kPivots];
  for (size_t i = 0; i < kPivots; ++i) {
    pivot[i] = hn::Set(di, pivots[i]);
    below[i] = hn::Zero(di);
  }
  V highest = hn::Zero(di);
  size_t j = 0;
  for (; j + lanes <= length; j += lanes) {
    const V bucket = hn::LoadU(di, buckets + j);
    highest = hn::Max(highest, bucket);
    for (size_t i = 0; i < kPivots; ++i) {
      below[i] = hn::Sub(below[i], hn::VecFromMask(di, hn::Lt(bucket, pivot[i])));
    }
  }
  int32_t largest = hn::GetLane(hn::MaxOfLanes(di, highest));
  for (size_t i = 0; i < kPivots; ++i) counts[i] = hn::GetLane(hn::SumOfLanes(di, below[i]));
  for (; j < length; ++j) {
    largest = std::max(largest, buckets[j]);
    for (size_t i = 0; i < kPivots; ++i) counts[i] += buckets[j] < pivots[i] ? 1 : 0;
  }
  return largest;
}

// What is known of a round: counts[i] buckets are below values[i], in ascending order; the first
// count is 0, the last all.
struct Ranks {
  int64_t values[kPivots + 2];
  int64_t counts[kPivots + 2];
  int64_t own;  // rank of the newest token: buckets below its own or equal to it, less itself
};

// One pass around the bucket of the newest token, the last of the round. What a window is bounded
// by is most often near.
HWY_INLINE Ranks survey_round(const int32_t* buckets, int64_t length) {
  constexpr int64_t kSteps[kPivots] = {-512, -64, -8, 0, 1, 9, 65, 513};
  const int64_t bucket = buckets[length - 1];
  int32_t pivots[kPivots];
  for (size_t i = 0; i < kPivots; ++i) {
    pivots[i] = static_cast<int32_t>(std::clamp<int64_t>(bucket + kSteps[i], 0, INT32_MAX));
  }
  int64_t counts[kPivots];
  const int64_t largest = count_below(buckets, static_cast<size_t>(length), pivots, counts);
  Ranks ranks;
  ranks.values[0] = ranks.counts[0] = 0;
  for (size_t i = 0; i < kPivots; ++i) {
    ranks.values[i + 1] = pivots[i];
    ranks.counts[i + 1] = counts[i];
  }
  ranks.values[kPivots + 1] = std::max<int64_t>(largest + 1, pivots[kPivots - 1]);
  ranks.counts[kPivots + 1] = length;
  // INT32_MAX has no pivot above it: then every token is at most in the newest one's bucket.
  ranks.own = (bucket == INT32_MAX ? length : counts[4]) - 1;
  return ranks;
}

// The bucket at a rank of the sorted round, and how many are below that bucket.
struct Ranked {
  int64_t bucket;
  int64_t below;
};

HWY_INLINE Ranked find_rank(const int32_t* buckets, int64_t length, int64_t rank,
                            const Ranks& known) {
  size_t place = 0;
  while (place < kPivots && known.counts[place + 1] <= rank) ++place;
  int64_t low = known.values[place];
  int64_t below = known.counts[place];
  int64_t high = known.values[place + 1];
  // counts below `low` <= rank < counts below `high`
  while (high - low > 1) {
    const int64_t step = divide_up(high - low, static_cast<int64_t>(kPivots + 1));
    int32_t pivots[kPivots];
    for (size_t i = 0; i < kPivots; ++i) {
      const int64_t pivot = low + step * static_cast<int64_t>(i + 1);
      pivots[i] = static_cast<int32_t>(std::min(pivot, high - 1));
    }
    int64_t counts[kPivots];
    count_below(buckets, static_cast<size_t>(length), pivots, counts);
    for (size_t i = 0; i < kPivots; ++i) {
      if (counts[i] > rank) {
        high = pivots[i];
        break;
      }
      low = pivots[i];
      below = counts[i];
    }
  }
  return {low, below};
}

// The positions that ranks [low, high) of the round have, in ascending order; returns how many.
HWY_NOINLINE size_t collect_ranks(const int32_t* HWY_RESTRICT buckets, int64_t length, int64_t low,
                                  int64_t high, const Ranks& known, int32_t* slots) {
  const size_t wanted = static_cast<size_t>(high - low);
  if (low == 0 && high == length) {
    for (size_t i = 0; i < wanted; ++i) slots[i] = static_cast<int32_t>(i);
    return wanted;
  }
  const Ranked first = find_rank(buckets, length, low, known);
  const Ranked last = find_rank(buckets, length, high - 1, known);
  // Of the first bucket the earliest tokens are before the range, of the last one the latest
  // behind it.
  const int64_t skipped = low - first.below;
  const int64_t taken = high - last.below;
  int64_t of_first = 0;
  int64_t of_last = 0;
  size_t count = 0;
  const auto visit = [&](size_t position) {
    const int64_t bucket = buckets[position];
    bool inside = true;
    if (bucket == first.bucket) inside = of_first++ >= skipped;
    if (bucket == last.bucket) inside = of_last++ < taken && inside;
    if (inside && count < wanted) slots[count++] = static_cast<int32_t>(position);
  };
  const I32 di;
  const size_t lanes = hn::Lanes(di);
  const auto lowest = hn::Set(di, static_cast<int32_t>(first.bucket));
  const auto highest = hn::Set(di, static_cast<int32_t>(last.bucket));
  const size_t size = static_cast<size_t>(length);
  size_t j = 0;
  for (; j + lanes <= size && count < wanted; j += lanes) {
    const auto bucket = hn::LoadU(di, buckets + j);
    const auto outside = hn::Or(hn::Lt(bucket, lowest), hn::Gt(bucket, highest));
    if (hn::AllTrue(di, outside)) continue;
    alignas(8) uint8_t bytes[8] = {};
    hn::StoreMaskBits(di, outside, bytes);
    uint64_t bits = 0;
    std::memcpy(&bits, bytes, sizeof(bits));
    for (size_t lane = 0; lane < lanes; ++lane) {
      if (((bits >> lane) & 1) == 0) visit(j + lane);
    }
  }
  for (; j < size && count < wanted; ++j) {
    if (buckets[j] >= first.bucket && buckets[j] <= last.bucket) visit(j);
  }
  return count;
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
