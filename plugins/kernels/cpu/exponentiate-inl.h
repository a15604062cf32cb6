// A row of logits to weights. Compiled per target.
#if defined(REFORMER_EXPONENTIATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_EXPONENTIATE_INL_H_
#undef REFORMER_EXPONENTIATE_INL_H_
#else
#define REFORMER_EXPONENTIATE_INL_H_
#endif

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// exp(x) of x <= 0 within 0.8 units in the last place, 1 of 0, and 0 where it is below 2^-125.5:
// half the instructions of Highway's, which takes any x. x = n ln 2 + r with |r| <= ln 2 / 2, and
// then 2^n p(r), p having the least relative error among polynomials of its degree with p(0) = 1.
HWY_INLINE VF exponentiate(VF x) {
  const F32 df;
  const I32 di;
  // Adding it leaves n, the nearest whole number, in the lowest bits.
  const VF rounder = hn::Set(df, 12582912.0f);  // 1.5 * 2^23
  const VF shifted = hn::MulAdd(x, hn::Set(df, 1.44269504f), rounder);
  const VF n = hn::Sub(shifted, rounder);
  // ln 2 in two parts, of which n times the first is exact.
  const VF high = hn::NegMulAdd(n, hn::Set(df, 0.693359375f), x);
  const VF r = hn::MulAdd(n, hn::Set(df, 2.12194440e-4f), high);
  VF p = hn::MulAdd(hn::Set(df, 1.38436068e-3f), r, hn::Set(df, 8.37419573e-3f));
  p = hn::MulAdd(p, r, hn::Set(df, 4.16680047e-2f));
  p = hn::MulAdd(p, r, hn::Set(df, 0.166664308f));
  p = hn::MulAdd(p, r, hn::Set(df, 0.499999942f));
  p = hn::MulAdd(p, r, hn::Set(df, 1.00000003f));
  p = hn::MulAdd(p, r, hn::Set(df, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const VF result = hn::BitCast(df, hn::Add(hn::BitCast(di, p), exponent));
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(df, -87.0f)), result);
}

// Replaces a row of logits by exp(logit - highest) and returns their sum.
HWY_INLINE float exponentiate_row(float highest, size_t columns, float* HWY_RESTRICT logits) {
  const F32 df;
  const VF shift = hn::Set(df, highest);
  VF sum = hn::Zero(df);
  for (size_t j = 0; j < columns; j += hn::Lanes(df)) {
    const VF weight = exponentiate(hn::Sub(hn::Load(df, logits + j), shift));
    hn::Store(weight, df, logits + j);
    sum = hn::Add(sum, weight);
  }
  return hn::GetLane(hn::SumOfLanes(df, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
