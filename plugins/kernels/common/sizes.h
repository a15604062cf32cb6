// Arithmetic of sizes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>

namespace reformer {

template <typename Int>
constexpr Int divide_up(Int value, Int by) {
  return (value + by - 1) / by;
}

template <typename Int>
constexpr Int round_up(Int value, Int multiple) {
  return divide_up(value, multiple) * multiple;
}

// The product of non-negative sizes; the largest int64 when it does not fit.
inline int64_t multiply_sizes(std::initializer_list<int64_t> sizes) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (size != 0 && product > kMax / size) return kMax;
    product *= size;
  }
  return product;
}

}  // namespace reformer
