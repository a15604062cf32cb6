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

#include "kernels/cpu/count-inl.h"
#include "kernels/cpu/step.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// Buckets [low, high): `below` of a round's are below the first, `through` below the end.
struct Bracket {
  int64_t low;
  int64_t high;
  int64_t below;
  int64_t through;

  // Without the tokens that are below another bracket.
  Bracket less(int64_t others) const { return {low, high, below - others, through - others}; }
};

// What is known of a round: counts[i] buckets are below values[i], in ascending order; the first
// count is 0, the last all.
struct Ranks {
  int64_t values[kPivots + 2];
  int64_t counts[kPivots + 2];
  int64_t own;  // rank of the newest token: buckets below its own or equal to it, less itself

  Bracket around(int64_t rank) const {
    size_t place = 0;
    while (place < kPivots && counts[place + 1] <= rank) ++place;
    return {values[place], values[place + 1], counts[place], counts[place + 1]};
  }
};

// One pass around the bucket of the newest token, the last of the round. What a window is bounded
// by is most often near. on_vector(j): see count_below.
template <typename OnVector>
HWY_INLINE Ranks survey_round(const int32_t* buckets, int64_t length, const OnVector& on_vector) {
  constexpr int32_t kSteps[kPivots] = {-512, -64, -8, 0, 1, 9, 65, 513};
  const int32_t bucket = buckets[length - 1];
  Ranks ranks;
  count_below<Offsets>(buckets, static_cast<size_t>(length), bucket, kSteps, ranks.counts + 1,
                       on_vector);
  ranks.values[0] = ranks.counts[0] = 0;
  for (size_t i = 0; i < kPivots; ++i) {
    ranks.values[i + 1] = std::max<int64_t>(int64_t{bucket} + kSteps[i], 0);
  }
  ranks.values[kPivots + 1] = int64_t{INT32_MAX} + 1;
  ranks.counts[kPivots + 1] = length;
  ranks.own = ranks.counts[5] - 1;
  return ranks;
}

// The one bucket of `bracket` that has the entry at `rank` of the sorted buckets; bracket.below <=
// rank < bracket.through.
HWY_INLINE Bracket find_rank(const int32_t* buckets, size_t length, int64_t rank, Bracket bracket) {
  if (bracket.high > INT32_MAX) bracket.high = int64_t{find_largest(buckets, length)} + 1;
  while (bracket.high - bracket.low > 1) {
    const int64_t low = bracket.low;
    const int64_t width = bracket.high - low;
    const int64_t step = divide_up(width, static_cast<int64_t>(kPivots + 1));
    int32_t steps[kPivots];
    for (size_t i = 0; i < kPivots; ++i) {
      steps[i] = static_cast<int32_t>(std::min(step * static_cast<int64_t>(i + 1), width - 1));
    }
    int64_t counts[kPivots];
    count_below_near(buckets, length, static_cast<int32_t>(low), steps, counts);
    for (size_t i = 0; i < kPivots; ++i) {
      if (counts[i] > rank) {
        bracket.high = low + steps[i];
        bracket.through = counts[i];
        break;
      }
      bracket.low = low + steps[i];
      bracket.below = counts[i];
    }
  }
  return bracket;
}

// Says of buckets, visited in the order of their positions, whether their ranks are in [low, high).
// Of the range's first bucket the earliest tokens are before it, of its last one the latest behind.
class RankFilter {
 public:
  RankFilter(const Bracket& first, const Bracket& last, int64_t low, int64_t high)
      : first_(static_cast<int32_t>(first.low)),
        last_(static_cast<int32_t>(last.low)),
        skipped_(low - first.below),
        taken_(high - last.below) {}

  HWY_INLINE hn::Mask<I32> take(hn::Vec<I32> bucket) {
    const I32 di;
    const auto first = hn::Set(di, first_);
    const auto last = hn::Set(di, last_);
    const auto outside = hn::Or(hn::Lt(bucket, first), hn::Gt(bucket, last));
    const auto early = cut(hn::Eq(bucket, first), skipped_);
    const auto is_last = hn::Eq(bucket, last);
    const auto late = hn::AndNot(cut(is_last, taken_), is_last);
    return hn::Not(hn::Or(outside, hn::Or(early, late)));
  }

 private:
  // The first `left` of the true lanes; `left` loses as many.
  static HWY_INLINE hn::Mask<I32> cut(hn::Mask<I32> mask, int64_t& left) {
    const I32 di;
    if (left == 0) return hn::FirstN(di, 0);
    const int64_t count = static_cast<int64_t>(hn::CountTrue(di, mask));
    if (count <= left) {
      left -= count;
      return mask;
    }
    HWY_ALIGN int32_t lanes[kLanes];
    hn::Store(hn::VecFromMask(di, mask), di, lanes);
    for (size_t i = 0; i < hn::Lanes(di); ++i) {
      if (lanes[i] == 0) continue;
      if (left == 0) lanes[i] = 0;
      left = std::max<int64_t>(left - 1, 0);
    }
    return hn::MaskFromVec(hn::Load(di, lanes));
  }

  int32_t first_, last_;
  int64_t skipped_, taken_;
};

// Whether compressing a vector is quicker than a branch that was foretold wrongly.
constexpr bool kCompresses = HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86;

// The positions of buckets in [low, high), and these buckets, in ascending order; at most
// candidates.room, behind which vectors are written.
HWY_INLINE size_t gather_between(const int32_t* HWY_RESTRICT buckets, size_t length, int64_t low,
                                 int64_t high, const RankCandidates& candidates) {
  const I32 di;
  const U32 du;
  const size_t lanes = hn::Lanes(di);
  const auto base = hn::Set(di, static_cast<int32_t>(low));
  const auto width = hn::Set(du, static_cast<uint32_t>(high - low));
  const auto step = hn::Set(di, static_cast<int32_t>(lanes));
  auto position = hn::Iota(di, 0);
  int32_t* positions = candidates.positions;
  size_t count = 0;
  size_t j = 0;
  for (; j + lanes <= length && count <= candidates.room; j += lanes) {
    const auto offset = hn::BitCast(du, hn::Sub(hn::LoadU(di, buckets + j), base));
    const auto inside = hn::RebindMask(di, hn::Lt(offset, width));
    // About one vector in three has such a bucket: too many to foretell which.
    if (kCompresses || !hn::AllFalse(di, inside)) {
      count += hn::CompressStore(position, inside, di, positions + count);
    }
    position = hn::Add(position, step);
  }
  for (; j < length && count <= candidates.room; ++j) {
    if (buckets[j] >= low && buckets[j] < high) positions[count++] = static_cast<int32_t>(j);
  }
  count = std::min(count, candidates.room);
  for (size_t i = 0; i < count; ++i) candidates.buckets[i] = buckets[positions[i]];
  return count;
}

// The positions of those of `length` buckets that the filter takes, until there are `wanted`:
// position(i) is the vector of them from i on. Writes a vector's width behind.
template <typename Position>
HWY_INLINE size_t take_ranks(const int32_t* buckets, size_t length, size_t wanted,
                             RankFilter filter, const Position& position, int32_t* slots) {
  const I32 di;
  const size_t lanes = hn::Lanes(di);
  size_t count = 0;
  size_t j = 0;
  for (; j + lanes <= length && count < wanted; j += lanes) {
    const auto taken = filter.take(hn::LoadU(di, buckets + j));
    count += hn::CompressStore(position(j), taken, di, slots + count);
  }
  if (j == length || count >= wanted) return count;
  HWY_ALIGN int32_t rest[kLanes];
  std::fill(rest, rest + lanes, -1);  // no bucket
  std::copy(buckets + j, buckets + length, rest);
  const auto taken = filter.take(hn::Load(di, rest));
  return count + hn::CompressStore(position(j), taken, di, slots + count);
}

// The positions that ranks [low, high) of the round have, in ascending order; returns how many.
// `slots` has room for them and a vector more.
HWY_NOINLINE size_t collect_ranks(const int32_t* HWY_RESTRICT buckets, int64_t length, int64_t low,
                                  int64_t high, const Ranks& known,
                                  const RankCandidates& candidates, int32_t* slots) {
  const I32 di;
  const size_t size = static_cast<size_t>(length);
  const size_t wanted = static_cast<size_t>(high - low);
  if (low == 0 && high == length) {
    for (size_t i = 0; i < wanted; ++i) slots[i] = static_cast<int32_t>(i);
    return wanted;
  }
  Bracket first = known.around(low);
  Bracket last = known.around(high - 1);
  const int64_t room = static_cast<int64_t>(candidates.room);
  if (last.through - first.below > room) {
    first = find_rank(buckets, size, low, first);
    last = find_rank(buckets, size, high - 1, last);
  }
  if (last.through - first.below > room) {
    const auto position = [&](size_t j) HWY_ATTR { return hn::Iota(di, static_cast<int32_t>(j)); };
    return take_ranks(buckets, size, wanted, {first, last, low, high}, position, slots);
  }
  // Most often what is between them is little: it is gathered, and searched alone.
  const size_t found = gather_between(buckets, size, first.low, last.high, candidates);
  const int64_t below = first.below;
  low -= below;
  high -= below;
  first = find_rank(candidates.buckets, found, low, first.less(below));
  last = find_rank(candidates.buckets, found, high - 1, last.less(below));
  const auto position = [&](size_t i) HWY_ATTR { return hn::LoadU(di, candidates.positions + i); };
  return take_ranks(candidates.buckets, found, wanted, {first, last, low, high}, position, slots);
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
