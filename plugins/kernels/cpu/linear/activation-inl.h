// Activations. Compiled per target.
#if defined(REFORMER_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_ACTIVATION_INL_H_
#undef REFORMER_ACTIVATION_INL_H_
#else
#define REFORMER_ACTIVATION_INL_H_
#endif

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// sum of coefficients[i] * x^i.
template <size_t kCount>
HWY_INLINE VF evaluate_polynomial(VF x, const float (&coefficients)[kCount]) {
  const F32 df;
  VF sum = hn::Set(df, coefficients[kCount - 1]);
  HWY_UNROLL(8)
  for (size_t i = kCount - 1; i > 0; --i) {
    sum = hn::MulAdd(sum, x, hn::Set(df, coefficients[i - 1]));
  }
  return sum;
}

// The error function to 4e-7, of a NaN anything: x times a quotient of polynomials in x^2, fitted
// in double precision. From kLargest on it is 1 in float32.
HWY_INLINE VF error_function(VF x) {
  constexpr float kLargest = 3.95f;
  constexpr float kAbove[] = {1.128378987312317f,      0.19403254985809326f,
                              0.053206611424684525f,   0.0039171697571873665f,
                              0.00028759503038600087f, 2.0117392978136195e-06f};
  constexpr float kBelow[] = {1.0f,
                              0.5052883625030518f,
                              0.11558942496776581f,
                              0.01527041383087635f,
                              0.0011981603456661105f,
                              3.783937791013159e-05f};
  const F32 df;
  const VF one = hn::Set(df, 1.0f);
  const VF size = hn::Abs(x);
  const VF square = hn::Mul(size, size);
  const VF above = hn::Mul(size, evaluate_polynomial(square, kAbove));
  const VF value = hn::Div(above, evaluate_polynomial(square, kBelow));
  const auto is_small = hn::Lt(size, hn::Set(df, kLargest));
  return hn::CopySignToAbs(hn::IfThenElse(is_small, value, one), x);
}

HWY_INLINE VF gelu(VF x) {
  const F32 df;
  const VF error = error_function(hn::Mul(x, hn::Set(df, 0.70710678118654752f)));
  return hn::Mul(hn::Mul(x, hn::Set(df, 0.5f)), hn::Add(error, hn::Set(df, 1.0f)));
}

template <int32_t kActivation>
HWY_INLINE VF activate(VF x) {
  if constexpr (kActivation == REFORMER_RELU) {
    // A NaN is neither below nor above zero, and stays.
    return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(F32())), x);
  } else if constexpr (kActivation == REFORMER_GELU) {
    return gelu(x);
  } else {
    return x;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
