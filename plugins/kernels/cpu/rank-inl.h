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

#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/step.h"

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

// Buckets [low, high), and how many are below the first.
struct Bracket {
  int64_t low;
  int64_t below;
  int64_t high;
};

// `rank` is at least bracket.below, and less than the number of buckets below bracket.high.
HWY_INLINE Ranked find_rank(const int32_t* buckets, int64_t length, int64_t rank, Bracket bracket) {
  while (bracket.high - bracket.low > 1) {
    const int64_t step = divide_up(bracket.high - bracket.low, static_cast<int64_t>(kPivots + 1));
    int32_t pivots[kPivots];
    for (size_t i = 0; i < kPivots; ++i) {
      const int64_t pivot = bracket.low + step * static_cast<int64_t>(i + 1);
      pivots[i] = static_cast<int32_t>(std::min(pivot, bracket.high - 1));
    }
    int64_t counts[kPivots];
    count_below(buckets, static_cast<size_t>(length), pivots, counts);
    for (size_t i = 0; i < kPivots; ++i) {
      if (counts[i] > rank) {
        bracket.high = pivots[i];
        break;
      }
      bracket.low = pivots[i];
      bracket.below = counts[i];
    }
  }
  return {bracket.low, bracket.below};
}

// Says of buckets, visited in the order of their positions, whether their ranks are in [low, high).
// Of the range's first bucket the earliest tokens are before it, of its last one the latest behind.
class RankFilter {
 public:
  RankFilter(const Ranked& first, const Ranked& last, int64_t low, int64_t high)
      : first_(first.bucket),
        last_(last.bucket),
        skipped_(low - first.below),
        taken_(high - last.below) {}

  bool takes(int64_t bucket) {
    bool inside = bucket >= first_ && bucket <= last_;
    if (bucket == first_) inside = of_first_++ >= skipped_;
    if (bucket == last_) inside = of_last_++ < taken_ && inside;
    return inside;
  }
  int32_t first() const { return static_cast<int32_t>(first_); }
  int32_t last() const { return static_cast<int32_t>(last_); }

 private:
  int64_t first_, last_;
  int64_t skipped_, taken_;
  int64_t of_first_ = 0;
  int64_t of_last_ = 0;
};

// Adds to `slots` the positions of one vector of buckets that the filter takes, in order: what lies
// between its ends at once. Writes a vector's width behind `count`.
HWY_INLINE size_t take_vector(hn::Vec<I32> bucket, hn::Vec<I32> position, RankFilter& filter,
                              int32_t* slots, size_t count) {
  const I32 di;
  const auto first = hn::Set(di, filter.first());
  const auto last = hn::Set(di, filter.last());
  const auto inside = hn::And(hn::Gt(bucket, first), hn::Lt(bucket, last));
  if (hn::AllFalse(di, hn::Or(hn::Eq(bucket, first), hn::Eq(bucket, last)))) {
    return count + hn::CompressStore(position, inside, di, slots + count);
  }
  HWY_ALIGN int32_t buckets[kLanes];
  HWY_ALIGN int32_t positions[kLanes];
  hn::Store(bucket, di, buckets);
  hn::Store(position, di, positions);
  for (size_t i = 0; i < hn::Lanes(di); ++i) {
    if (filter.takes(buckets[i])) slots[count++] = positions[i];
  }
  return count;
}

// The positions of buckets in [low, high), and these buckets, in ascending order; `candidates` has
// room for them and a vector more.
HWY_INLINE size_t gather_between(const int32_t* HWY_RESTRICT buckets, size_t length, int64_t low,
                                 int64_t high, const RankCandidates& candidates) {
  const I32 di;
  const size_t lanes = hn::Lanes(di);
  const auto lowest = hn::Set(di, static_cast<int32_t>(low));
  const auto highest = hn::Set(di, static_cast<int32_t>(high - 1));
  size_t count = 0;
  size_t j = 0;
  for (; j + lanes <= length && count <= candidates.room; j += lanes) {
    const auto bucket = hn::LoadU(di, buckets + j);
    const auto outside = hn::Or(hn::Lt(bucket, lowest), hn::Gt(bucket, highest));
    if (hn::AllTrue(di, outside)) continue;
    const auto inside = hn::Not(outside);
    const auto position = hn::Iota(di, static_cast<int32_t>(j));
    hn::CompressStore(position, inside, di, candidates.positions + count);
    count += hn::CompressStore(bucket, inside, di, candidates.buckets + count);
  }
  for (; j < length && count <= candidates.room; ++j) {
    if (buckets[j] < low || buckets[j] >= high) continue;
    candidates.positions[count] = static_cast<int32_t>(j);
    candidates.buckets[count++] = buckets[j];
  }
  return count;
}

// The positions that ranks [low, high) of the round have, in ascending order; returns how many.
// `slots` has room for them and a vector more.
HWY_NOINLINE size_t collect_ranks(const int32_t* HWY_RESTRICT buckets, int64_t length, int64_t low,
                                  int64_t high, const Ranks& known,
                                  const RankCandidates& candidates, int32_t* slots) {
  const size_t wanted = static_cast<size_t>(high - low);
  if (low == 0 && high == length) {
    for (size_t i = 0; i < wanted; ++i) slots[i] = static_cast<int32_t>(i);
    return wanted;
  }
  const auto place_of = [&](int64_t rank) {
    size_t place = 0;
    while (place < kPivots && known.counts[place + 1] <= rank) ++place;
    return place;
  };
  const size_t from = place_of(low);
  const size_t to = place_of(high - 1);
  const auto bracket = [&](size_t place, int64_t below) {
    return Bracket{known.values[place], known.counts[place] - below, known.values[place + 1]};
  };
  const I32 di;
  const size_t lanes = hn::Lanes(di);
  size_t count = 0;
  // Most often what is between the known values is little: it is gathered, and searched alone.
  const int64_t below = known.counts[from];
  if (known.counts[to + 1] - below <= static_cast<int64_t>(candidates.room)) {
    const size_t found = gather_between(buckets, static_cast<size_t>(length), known.values[from],
                                        known.values[to + 1], candidates);
    const int64_t size = static_cast<int64_t>(found);
    const Ranked first = find_rank(candidates.buckets, size, low - below, bracket(from, below));
    const Ranked last = find_rank(candidates.buckets, size, high - 1 - below, bracket(to, below));
    RankFilter filter(first, last, low - below, high - below);
    size_t i = 0;
    for (; i + lanes <= found && count < wanted; i += lanes) {
      count = take_vector(hn::LoadU(di, candidates.buckets + i),
                          hn::LoadU(di, candidates.positions + i), filter, slots, count);
    }
    for (; i < found && count < wanted; ++i) {
      if (filter.takes(candidates.buckets[i])) slots[count++] = candidates.positions[i];
    }
    return count;
  }
  RankFilter filter(find_rank(buckets, length, low, bracket(from, 0)),
                    find_rank(buckets, length, high - 1, bracket(to, 0)), low, high);
  const size_t size = static_cast<size_t>(length);
  size_t j = 0;
  for (; j + lanes <= size && count < wanted; j += lanes) {
    count = take_vector(hn::LoadU(di, buckets + j), hn::Iota(di, static_cast<int32_t>(j)), filter,
                        slots, count);
  }
  for (; j < size && count < wanted; ++j) {
    if (filter.takes(buckets[j])) slots[count++] = static_cast<int32_t>(j);
  }
  return count;
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
