// Rows of T to and from float32, and transposition. Compiled per target.
#if defined(REFORMER_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_ROWS_INL_H_
#undef REFORMER_ROWS_INL_H_
#else
#define REFORMER_ROWS_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/common/dispatch.h"
#include "kernels/cpu/tiles.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using VF = hn::Vec<F32>;

HWY_INLINE VF load_floats(const float* source) { return hn::LoadU(F32(), source); }

template <typename Half>
HWY_INLINE VF load_floats(const Half* source) {
  return hn::PromoteTo(F32(), hn::LoadU(hn::Rebind<Half, F32>(), source));
}

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
// There an infinity becomes 2^16, and a NaN a number above it.
HWY_INLINE VF load_floats(const hwy::float16_t* source) {
  const F32 df;
  const VF value = hn::PromoteTo(df, hn::LoadU(hn::Rebind<hwy::float16_t, F32>(), source));
  const VF infinity = hn::BitCast(df, hn::Set(U32(), 0x7F800000u));
  return hn::IfThenElse(hn::Ge(hn::Abs(value), hn::Set(df, 0x1p16f)), hn::Or(value, infinity),
                        value);
}
#endif

HWY_INLINE void store_floats(VF values, float* target) { hn::StoreU(values, F32(), target); }

// Highway 1.0's own conversions to half precision truncate on some targets; both below round to
// nearest even. A NaN becomes the quiet NaN.
HWY_INLINE void store_floats(VF values, hwy::bfloat16_t* target) {
  const U32 du;
  const auto bits = hn::BitCast(du, values);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu))));
  const auto nan = hn::RebindMask(du, hn::Ne(values, values));
  const auto result = hn::IfThenElse(nan, hn::Or(upper, hn::Set(du, 0x40u)), rounded);
  const hn::Rebind<uint16_t, F32> du16;
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(I32(), result)), du16,
             reinterpret_cast<uint16_t*>(target));
}

HWY_INLINE void store_floats(VF values, hwy::float16_t* target) {
  const F32 df;
  const U32 du;
  const I32 di;
  const auto sign = hn::And(hn::BitCast(du, values), hn::Set(du, 0x80000000u));
  const auto magnitude = hn::BitCast(di, hn::Abs(values));
  // Below 2^-14: adding 0.5 lets the float adder round to multiples of 2^-24.
  const auto subnormal = hn::Sub(hn::BitCast(di, hn::Add(hn::Abs(values), hn::Set(df, 0.5f))),
                                 hn::Set(di, 0x3F000000));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(di, 1));
  const auto rebiased = hn::Sub(magnitude, hn::Set(di, 112 << 23));
  const auto normal = hn::ShiftRight<13>(hn::Add(rebiased, hn::Add(odd, hn::Set(di, 0xFFF))));
  const auto infinity_bits = hn::Set(di, 0x7F800000);
  const auto special =
      hn::IfThenElse(hn::Gt(magnitude, infinity_bits), hn::Set(di, 0x7E00), hn::Set(di, 0x7C00));
  auto result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 113 << 23)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, (143 << 23) - 1)), special, result);
  result = hn::Or(result, hn::BitCast(di, hn::ShiftRight<16>(sign)));
  const hn::Rebind<uint16_t, F32> du16;
  hn::StoreU(hn::DemoteTo(du16, result), du16, reinterpret_cast<uint16_t*>(target));
}

template <typename T>
HWY_INLINE void prefetch_row(const T* row, size_t count) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (size_t i = 0; i < count * sizeof(T); i += kCacheLine) hwy::Prefetch(bytes + i);
}

// `count` values, then zeros up to a multiple of kLanes. Reads no byte behind the row.
template <typename T>
HWY_INLINE void load_row(const T* HWY_RESTRICT source, size_t count, float* HWY_RESTRICT target) {
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::Store(load_floats(source + i), df, target + i);
  if (i < count) {
    T rest[kLanes];
    std::memset(static_cast<void*>(rest), 0, sizeof(rest));
    std::memcpy(static_cast<void*>(rest), source + i, (count - i) * sizeof(T));
    hn::Store(load_floats(rest), df, target + i);
    i += lanes;
  }
  for (const size_t padded = round_up(count, kLanes); i < padded; i += lanes) {
    hn::Store(hn::Zero(df), df, target + i);
  }
}

// Writes no byte behind the row.
template <typename T>
HWY_INLINE void store_row(const float* HWY_RESTRICT source, size_t count, T* HWY_RESTRICT target) {
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) store_floats(hn::Load(df, source + i), target + i);
  if (i < count) {
    T rest[kLanes];
    store_floats(hn::Load(df, source + i), rest);
    std::memcpy(static_cast<void*>(target + i), rest, (count - i) * sizeof(T));
  }
}

#if HWY_TARGET != HWY_SCALAR
// Blocks of 4 floats, one from every fourth row, the first of them at `source`.
template <typename D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* HWY_RESTRICT source, size_t source_row) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return hn::LoadU(d, source);
  } else {
    const hn::Half<D> half;
    const float* upper = source + hn::MaxLanes(half) * source_row;
    return hn::Combine(d, load_blocks(half, upper, source_row),
                       load_blocks(half, source, source_row));
  }
}
#endif

// target[c * target_row + r] = source[r * source_row + c] for r < rows, c < columns; `rows` is a
// multiple of kLanes, columns are rounded up to a multiple of 4, and source and target have room
// for that. The target is aligned, the source need not be.
HWY_INLINE void transpose(const float* HWY_RESTRICT source, size_t source_row, size_t rows,
                          size_t columns, float* HWY_RESTRICT target, size_t target_row) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) target[c * target_row + r] = source[r * source_row + c];
  }
#else
  const F32 df;
  const hn::Repartition<double, F32> dd;
  for (size_t r = 0; r < rows; r += hn::Lanes(df)) {
    for (size_t c = 0; c < columns; c += 4) {
      const float* from = source + r * source_row + c;
      float* to = target + c * target_row + r;
      const auto r0 = load_blocks(df, from, source_row);
      const auto r1 = load_blocks(df, from + source_row, source_row);
      const auto r2 = load_blocks(df, from + 2 * source_row, source_row);
      const auto r3 = load_blocks(df, from + 3 * source_row, source_row);
      const auto low01 = hn::BitCast(dd, hn::InterleaveLower(df, r0, r1));
      const auto low23 = hn::BitCast(dd, hn::InterleaveLower(df, r2, r3));
      const auto high01 = hn::BitCast(dd, hn::InterleaveUpper(df, r0, r1));
      const auto high23 = hn::BitCast(dd, hn::InterleaveUpper(df, r2, r3));
      hn::Store(hn::BitCast(df, hn::InterleaveLower(dd, low01, low23)), df, to);
      hn::Store(hn::BitCast(df, hn::InterleaveUpper(dd, low01, low23)), df, to + target_row);
      hn::Store(hn::BitCast(df, hn::InterleaveLower(dd, high01, high23)), df, to + 2 * target_row);
      hn::Store(hn::BitCast(df, hn::InterleaveUpper(dd, high01, high23)), df, to + 3 * target_row);
    }
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
