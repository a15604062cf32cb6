// A row of logits to weights. Compiled per target.
#if defined(REFORMER_EXPONENTIATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_EXPONENTIATE_INL_H_
#undef REFORMER_EXPONENTIATE_INL_H_
#else
#define REFORMER_EXPONENTIATE_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// Replaces a row of logits by exp(logit - highest) and returns their sum.
HWY_INLINE float exponentiate_row(float highest, size_t columns, float* HWY_RESTRICT logits) {
  const F32 df;
  const VF shift = hn::Set(df, highest);
  VF sum = hn::Zero(df);
  for (size_t j = 0; j < columns; j += hn::Lanes(df)) {
    const VF weight = hn::Exp(df, hn::Sub(hn::Load(df, logits + j), shift));
    hn::Store(weight, df, logits + j);
    sum = hn::Add(sum, weight);
  }
  return hn::GetLane(hn::SumOfLanes(df, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
