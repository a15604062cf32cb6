#include "kernels/cpu/linear/rows.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/dispatch.h"
#include "kernels/cpu/linear/products.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear/rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/linear/activation-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/select_version.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr float kInt8Limit = 127.0f;

// visit(values, offset) for every vector of a row, zeros behind its end.
template <typename T, typename Visit>
HWY_INLINE void visit_vectors(const T* row, size_t size, const Visit& visit) {
  const size_t lanes = hn::Lanes(F32());
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) visit(load_floats(row + i), i);
  if (i == size) return;
  T rest[kLanes];
  std::memset(static_cast<void*>(rest), 0, sizeof(rest));
  std::memcpy(static_cast<void*>(rest), row + i, (size - i) * sizeof(T));
  visit(load_floats(rest), i);
}

// max |x| / 127, or 1 where that is 0; NaN where the row is not finite. As integers, magnitudes
// order as their numbers do, and NaN lies behind infinity.
template <typename T>
HWY_INLINE float measure_unit(const T* row, size_t size) {
  const I32 di;
  auto largest = hn::Zero(di);
  visit_vectors(row, size, [&](VF values, size_t /*offset*/) HWY_ATTR {
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(values)));
  });
  const int32_t bits = hn::GetLane(hn::MaxOfLanes(di, largest));
  if (bits >= 0x7F800000) return std::numeric_limits<float>::quiet_NaN();
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof(magnitude));
  const float unit = magnitude / kInt8Limit;
  return unit == 0 ? 1.0f : unit;
}

// From 2^23 to 2^24 float32 has whole numbers only: a sum with this one is rounded to the nearest,
// of two the even one, which its last byte then is as int8, and its last two as int16; with
// kBiasedZero the last one is uint8, 128 above it.
constexpr float kZero = 0x1.8p23f;
constexpr float kBiasedZero = kZero + 128;

template <typename Number>
HWY_INLINE void store_last_bytes(VF sum, Number* target) {
  const hn::Rebind<Number, F32> d;
  hn::StoreU(hn::TruncateTo(d, hn::BitCast(U32(), sum)), d, target);
}

// Numbers of a row divided by its unit, which may be a coarse 127th where it is denormal: so the
// quotients have to be clipped.
template <typename T, typename Number>
HWY_NOINLINE void divide_numbers(const T* numbers, size_t count, float unit, float zero,
                                 Number* target) {
  const F32 df;
  const VF units = hn::Set(df, unit);
  const VF limit = hn::Set(df, kInt8Limit);
  visit_vectors(numbers, count, [&](VF values, size_t offset) HWY_ATTR {
    const VF clipped = hn::Max(hn::Min(hn::Div(values, units), limit), hn::Neg(limit));
    store_last_bytes(hn::Add(clipped, hn::Set(df, zero)), target + offset);
  });
}

// A product with 1 / unit is within 2e-5 of the quotient, so that it rounds as that does unless it
// is close to the middle of two whole numbers: only then is divided, and where 1 / unit could
// overflow. Returns how far from a whole number a product was at most.
template <typename T, typename Number>
HWY_INLINE float multiply_numbers(const T* numbers, size_t count, float inverse, float zero,
                                  Number* target) {
  const F32 df;
  const VF inverses = hn::Set(df, inverse);
  const VF zeros = hn::Set(df, zero);
  VF farthest = hn::Zero(df);
  visit_vectors(numbers, count, [&](VF values, size_t offset) HWY_ATTR {
    const VF sum = hn::MulAdd(values, inverses, zeros);
    const VF whole = hn::Sub(sum, zeros);
    farthest = hn::Max(farthest, hn::Abs(hn::MulSub(values, inverses, whole)));
    store_last_bytes(sum, target + offset);
  });
  return hn::GetLane(hn::MaxOfLanes(df, farthest));
}

// Number: what its row format stores, as uint8 or uint16.
template <typename Number, typename T>
HWY_INLINE void quantise_row(const RowsJob& job, const T* row, Number* target, float* unit_out) {
  constexpr size_t kBlock = 256;  // numbers, of which one in 50 blocks has one close to a middle
  constexpr float kNearMiddle = 0.49996f;
  const size_t size = static_cast<size_t>(job.size);
  const bool is_biased = job.row_format == RowFormat::kBiased;
  const float zero = is_biased ? kBiasedZero : kZero;
  const float unit = measure_unit(row, size);
  *unit_out = unit;
  if (std::isnan(unit)) {
    std::memset(target, is_biased ? 128 : 0, job.row_bytes);
    return;
  }
  const bool inverts = unit > 0x1p-100f;
  const float inverse = 1.0f / unit;
  for (size_t i = 0; i < size; i += kBlock) {
    const size_t count = size - i < kBlock ? size - i : kBlock;
    if (inverts && multiply_numbers(row + i, count, inverse, zero, target + i) < kNearMiddle) {
      continue;
    }
    divide_numbers(row + i, count, unit, zero, target + i);
  }
  const size_t written = round_up(size, hn::Lanes(F32()));
  std::memset(target + written, 0, job.row_bytes - written * sizeof(Number));
}

template <typename T>
HWY_INLINE void round_row(const RowsJob& job, const T* row, uint8_t* target) {
  const size_t size = static_cast<size_t>(job.size);
  auto* numbers = reinterpret_cast<hwy::bfloat16_t*>(target);
  visit_vectors(row, size,
                [&](VF values, size_t offset) HWY_ATTR { store_floats(values, numbers + offset); });
  const size_t written = round_up(size, hn::Lanes(F32())) * sizeof(hwy::bfloat16_t);
  std::memset(target + written, 0, job.row_bytes - written);
}

void convert_rows(const RowsJob& job, int64_t begin, int64_t end, int64_t at) {
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    const T* x = static_cast<const T*>(job.x);
    for (int64_t row = begin; row < end; ++row, ++at) {
      uint8_t* target = job.rows + static_cast<size_t>(at) * job.row_stride;
      const T* source = x + row * job.size;
      if (job.weight_dtype != REFORMER_INT8) {
        round_row(job, source, target);
      } else if (job.row_format == RowFormat::kWide) {
        quantise_row(job, source, reinterpret_cast<uint16_t*>(target), job.units + at);
      } else {
        quantise_row(job, source, target, job.units + at);
      }
    }
  });
}

void widen(int32_t dtype, const void* source, size_t count, float* target) {
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(dtype, [&](auto element) HWY_ATTR {
    visit_vectors(static_cast<const decltype(element)*>(source), count,
                  [&](VF values, size_t offset) HWY_ATTR {
                    float all[kLanes];
                    store_floats(values, all);
                    const size_t lanes = hn::Lanes(F32());
                    const size_t left = count - offset;
                    std::memcpy(target + offset, all,
                                (left < lanes ? left : lanes) * sizeof(float));
                  });
  });
}

// What a row's sums are multiplied with: nothing, or units and scales.
struct FloatSums {
  const float* sums;
  HWY_INLINE VF load(const FinishJob& /*job*/, size_t column) const {
    return hn::LoadU(F32(), sums + column);
  }
};

struct Int8Sums {
  const int32_t* sums;
  float unit;
  HWY_INLINE VF load(const FinishJob& job, size_t column) const {
    const F32 df;
    const I32 di;
    const auto whole = hn::Sub(hn::LoadU(di, sums + column), hn::LoadU(di, job.surpluses + column));
    const VF factor = hn::Mul(hn::Set(df, unit), hn::LoadU(df, job.scales + column));
    return hn::Mul(hn::ConvertTo(df, whole), factor);
  }
};

template <int32_t kActivation, typename Sums, typename T>
HWY_INLINE void finish_row(const FinishJob& job, const Sums& sums, T* y) {
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  for (size_t column = 0; column < job.columns; column += lanes) {
    const VF biased = hn::Add(sums.load(job, column), hn::LoadU(df, job.bias + column));
    const VF result = activate<kActivation>(biased);
    const size_t left = job.columns - column;
    if (left >= lanes) {
      store_floats(result, y + column);
    } else {
      T rest[kLanes];
      store_floats(result, rest);
      std::memcpy(static_cast<void*>(y + column), rest, left * sizeof(T));
    }
  }
}

template <int32_t kActivation, typename T>
HWY_INLINE void finish_rows_of(const FinishJob& job) {
  T* y = static_cast<T*>(job.y);
  for (size_t row = 0; row < job.rows; ++row, y += job.y_row) {
    if (job.units == nullptr) {
      const float* sums = static_cast<const float*>(job.sums);
      finish_row<kActivation>(job, FloatSums{sums + row * kPanelColumns}, y);
    } else {
      const int32_t* sums = static_cast<const int32_t*>(job.sums);
      finish_row<kActivation>(job, Int8Sums{sums + row * kPanelColumns, job.units[row]}, y);
    }
  }
}

void finish_rows(const FinishJob& job) {
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.dtype, [&](auto element) HWY_ATTR {
    using T = decltype(element);
    switch (job.activation) {
      case REFORMER_RELU:
        return finish_rows_of<REFORMER_RELU, T>(job);
      case REFORMER_GELU:
        return finish_rows_of<REFORMER_GELU, T>(job);
      default:
        return finish_rows_of<REFORMER_NO_ACTIVATION, T>(job);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reformer {

RowsFunction select_rows() { return REFORMER_SELECT(convert_rows); }

void widen_values(int32_t dtype, const void* source, size_t count, float* target) {
  HWY_STATIC_DISPATCH(widen)(dtype, source, count, target);
}

FinishFunction select_finish() { return REFORMER_SELECT(finish_rows); }

}  // namespace reformer
#endif  // HWY_ONCE
