// float16 and bfloat16 by their definition, slow and independent of the kernels' conversions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "reformer_kernels.h"

namespace reformer::test {

struct HalfFormat {
  int mantissa_bits;
  int min_exponent;  // of normal numbers
  int max_exponent;
};

inline HalfFormat format_of(int32_t dtype) {
  return dtype == REFORMER_FLOAT16 ? HalfFormat{10, -14, 15} : HalfFormat{7, -126, 127};
}

// The spacing of representable numbers around `value`.
inline double spacing(int32_t dtype, double value) {
  const HalfFormat format = format_of(dtype);
  int exponent = value == 0 ? format.min_exponent : std::ilogb(value);
  exponent = exponent < format.min_exponent ? format.min_exponent : exponent;
  return std::ldexp(1.0, exponent - format.mantissa_bits);
}

// Round to nearest even, finite values in range; infinities and NaN as they are.
inline uint16_t half_from_float(int32_t dtype, float value) {
  const HalfFormat format = format_of(dtype);
  if (!std::isfinite(value)) {
    const int exponent = (format.max_exponent - format.min_exponent + 2) << format.mantissa_bits;
    return static_cast<uint16_t>((std::signbit(value) ? 0x8000 : 0) | exponent |
                                 (std::isnan(value) ? 1 : 0));
  }
  const double step = spacing(dtype, value);
  const double rounded = std::nearbyint(static_cast<double>(value) / step) * step;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(rounded);
  if (magnitude < std::ldexp(1.0, format.min_exponent)) {
    const double units = magnitude / std::ldexp(1.0, format.min_exponent - format.mantissa_bits);
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(units));
  }
  const int exponent = std::ilogb(magnitude);
  const double fraction = std::ldexp(magnitude, format.mantissa_bits - exponent);
  const int mantissa = static_cast<int>(fraction) - (1 << format.mantissa_bits);
  const int biased = exponent - format.min_exponent + 1;
  return static_cast<uint16_t>(sign | (biased << format.mantissa_bits) | mantissa);
}

inline float float_from_half(int32_t dtype, uint16_t bits) {
  const HalfFormat format = format_of(dtype);
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int biased = (bits & 0x7FFF) >> format.mantissa_bits;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int implicit = biased == 0 ? 0 : 1 << format.mantissa_bits;
  const int exponent = (biased == 0 ? 1 : biased) - 1 + format.min_exponent - format.mantissa_bits;
  return static_cast<float>(sign * std::ldexp(implicit + mantissa, exponent));
}

}  // namespace reformer::test
