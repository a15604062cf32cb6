// Activations. Compiled per target.
#if defined(REFORMER_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_ACTIVATION_INL_H_
#undef REFORMER_ACTIVATION_INL_H_
#else
#define REFORMER_ACTIVATION_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
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

// The error function to 1.3e-7, of a NaN anything. Below kSplit a polynomial in x^2 of erf(x) / x,
// above it one in x of -log(1 - erf(x)): Chebyshev fits in double precision. From kLargest on
// erf is 1 in float32.
HWY_INLINE VF error_function(VF x) {
  constexpr float kSplit = 0.9f;
  constexpr float kLargest = 3.95f;
  constexpr float kInner[] = {
      1.128379225730896f,   -0.37612634897232056f,   0.11283718794584274f,  -0.026860708370804787f,
      0.00520433159545064f, -0.0008180781151168048f, 8.534120570402592e-05f};
  constexpr float kOuter[] = {
      -0.0003052475512959063f, 1.1301769018173218f,     0.6319162845611572f,
      0.11000113934278488f,    -0.02637963742017746f,   0.004746152088046074f,
      -0.0005941798444837332f, 4.5774933823850006e-05f, -1.6242348692685482e-06f};
  const F32 df;
  const VF size = hn::Min(hn::Abs(x), hn::Set(df, kLargest));
  const VF inner = hn::Mul(size, evaluate_polynomial(hn::Mul(size, size), kInner));
  const VF outer =
      hn::Sub(hn::Set(df, 1.0f), hn::Exp(df, hn::Neg(evaluate_polynomial(size, kOuter))));
  const VF value = hn::IfThenElse(hn::Lt(size, hn::Set(df, kSplit)), inner, outer);
  return hn::CopySignToAbs(value, x);
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
