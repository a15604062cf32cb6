// float16 and bfloat16 conversions by their bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cuda/device/element_types.h"

namespace reformer::cuda {

namespace emulation {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Drops the lowest `count` bits, to nearest even.
inline uint32_t round_bits(uint32_t bits, int count) {
  const uint32_t half = 1u << (count - 1);
  return (bits + half - 1 + ((bits >> count) & 1)) >> count;
}

inline uint16_t float16_bits(float value) {
  constexpr uint32_t kInfinity = 0x7F800000;        // float32
  constexpr uint32_t kTooLarge = 0x477FF000;        // 65520: rounds to infinity
  constexpr uint32_t kSmallestNormal = 0x38800000;  // 2^-14
  constexpr uint32_t kRebias = (127 - 15) << 23;
  const uint32_t bits = bits_of(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  uint32_t half = 0;
  if (magnitude > kInfinity) {
    half = 0x7E00;
  } else if (magnitude >= kTooLarge) {
    half = 0x7C00;
  } else if (magnitude >= kSmallestNormal) {
    half = round_bits(magnitude - kRebias, 13);
  } else {
    // Adding 0.5 leaves the bits in steps of 2^-24, the subnormals' spacing, rounded.
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  }
  return static_cast<uint16_t>(sign | half);
}

inline float float16_value(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 1023;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 127 - 15;
  return float_of(sign | (wide << 23) | (mantissa << 13));
}

inline uint16_t bfloat16_bits(float value) {
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>(round_bits(bits_of(value), 16));
}

}  // namespace emulation

inline float to_float(float value) { return value; }
inline float to_float(float16 value) { return emulation::float16_value(value.bits); }
inline float to_float(bfloat16 value) {
  return emulation::float_of(static_cast<uint32_t>(value.bits) << 16);
}

template <typename T>
T from_float(float value);
template <>
inline float from_float<float>(float value) {
  return value;
}
template <>
inline float16 from_float<float16>(float value) {
  return {emulation::float16_bits(value)};
}
template <>
inline bfloat16 from_float<bfloat16>(float value) {
  return {emulation::bfloat16_bits(value)};
}

template <typename T>
uint32_t pack2(float low, float high) {
  const uint32_t upper = from_float<T>(high).bits;
  return (upper << 16) | from_float<T>(low).bits;
}

}  // namespace reformer::cuda
