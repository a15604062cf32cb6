// How many buckets are below some values: a pass over integers. Compiled per target.
#if defined(REFORMER_COUNT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_COUNT_INL_H_
#undef REFORMER_COUNT_INL_H_
#else
#define REFORMER_COUNT_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

constexpr size_t kPivots = 8;  // values that one pass counts below

// Buckets as their distances from one of them: int32.
struct WideOffsets {
  using D = I32;
  static HWY_INLINE hn::Vec<D> load(const int32_t* buckets, hn::Vec<I32> base) {
    return hn::Sub(hn::LoadU(I32(), buckets), base);
  }
  static HWY_INLINE int64_t sum(hn::Vec<D> counts) {
    return hn::GetLane(hn::SumOfLanes(I32(), counts));
  }
};

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
using Offsets = WideOffsets;
#else
// Likewise as int16, twice as many in a vector, in some order; what is farther away than int16 can
// tell is as far as it can.
struct Offsets {
  using D = hn::Repartition<int16_t, I32>;
  static HWY_INLINE hn::Vec<D> load(const int32_t* buckets, hn::Vec<I32> base) {
    return hn::ReorderDemote2To(D(), WideOffsets::load(buckets, base),
                                WideOffsets::load(buckets + hn::Lanes(I32()), base));
  }
  static HWY_INLINE int64_t sum(hn::Vec<D> counts) {
    const auto pairs = hn::BitCast(I32(), counts);
    const auto low = hn::ShiftRight<16>(hn::ShiftLeft<16>(pairs));
    return WideOffsets::sum(hn::Add(low, hn::ShiftRight<16>(pairs)));
  }
};
#endif

// One more in each true lane.
template <typename D>
HWY_INLINE hn::Vec<D> count_true(D d, hn::Mask<D> mask, hn::Vec<D> counts) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  // Masks are no vectors there: this is one instruction, a conversion would be another.
  return hn::IfThenElse(mask, hn::Add(counts, hn::Set(d, hn::TFromD<D>{1})), counts);
#else
  return hn::Sub(counts, hn::VecFromMask(d, mask));
#endif
}

// counts[i] = how many of `length` buckets are below base + steps[i], steps that O can tell.
// on_vector(j) is called before the vector of offsets from bucket j on.
template <typename O, typename OnVector>
HWY_NOINLINE void count_below(const int32_t* HWY_RESTRICT buckets, size_t length, int32_t base,
                              const int32_t (&steps)[kPivots], int64_t* HWY_RESTRICT counts,
                              const OnVector& on_vector) {
  using D = typename O::D;
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;
  constexpr size_t kMost = INT16_MAX;  // vectors, in whose lanes the least T can count
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto origin = hn::Set(I32(), base);
  V step[kPivots];
  for (size_t i = 0; i < kPivots; ++i) {
    step[i] = hn::Set(d, static_cast<T>(steps[i]));
    counts[i] = 0;
  }
  size_t j = 0;
  while (j + lanes <= length) {
    V below[kPivots];
    for (size_t i = 0; i < kPivots; ++i) below[i] = hn::Zero(d);
    const size_t end = j + std::min((length - j) / lanes, kMost) * lanes;
    for (; j < end; j += lanes) {
      on_vector(j);
      const V offset = O::load(buckets + j, origin);
      for (size_t i = 0; i < kPivots; ++i) {
        below[i] = count_true(d, hn::Lt(offset, step[i]), below[i]);
      }
    }
    for (size_t i = 0; i < kPivots; ++i) counts[i] += O::sum(below[i]);
  }
  for (; j < length; ++j) {
    const int64_t offset = int64_t{buckets[j]} - base;
    for (size_t i = 0; i < kPivots; ++i) counts[i] += offset < steps[i] ? 1 : 0;
  }
}

// Likewise of ascending steps, as narrow as they are.
HWY_INLINE void count_below_near(const int32_t* buckets, size_t length, int32_t base,
                                 const int32_t (&steps)[kPivots], int64_t (&counts)[kPivots]) {
  const auto nothing = [](size_t) HWY_ATTR {};
  if (steps[kPivots - 1] <= INT16_MAX) {
    count_below<Offsets>(buckets, length, base, steps, counts, nothing);
  } else {
    count_below<WideOffsets>(buckets, length, base, steps, counts, nothing);
  }
}

HWY_NOINLINE int32_t find_largest(const int32_t* buckets, size_t length) {
  const I32 di;
  auto largest = hn::Zero(di);
  size_t j = 0;
  for (; j + hn::Lanes(di) <= length; j += hn::Lanes(di)) {
    largest = hn::Max(largest, hn::LoadU(di, buckets + j));
  }
  int32_t result = hn::GetLane(hn::MaxOfLanes(di, largest));
  for (; j < length; ++j) result = std::max(result, buckets[j]);
  return result;
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
