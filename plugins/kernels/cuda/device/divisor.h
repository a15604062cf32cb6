// Division by a number that is known at launch: a device has no divide instruction for integers,
// and working a quotient out takes twenty others.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

// Divides 0 <= n < 2^31 by 1 <= d < 2^31 with a multiplication: with s = ceil(log2 d) and
// m = floor(2^32 (2^s - d) / d) + 1, n / d is (floor(m n / 2^32) + n) / 2^s (Granlund and
// Montgomery, Division by invariant integers using multiplication, 1994). The sum is below 2^32.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int32_t divisor) : divisor_(static_cast<uint32_t>(divisor)) {
    while ((uint64_t{1} << shift_) < divisor_) ++shift_;
    const uint64_t excess = (uint64_t{1} << shift_) - divisor_;
    multiplier_ = static_cast<uint32_t>((excess << 32) / divisor_ + 1);
  }

  __device__ __forceinline__ int32_t divide(int32_t n) const {
    const uint32_t number = static_cast<uint32_t>(n);
    const uint32_t high = static_cast<uint32_t>((uint64_t{multiplier_} * number) >> 32);
    return static_cast<int32_t>((high + number) >> shift_);
  }

  __device__ __forceinline__ int32_t remainder(int32_t n, int32_t quotient) const {
    return n - quotient * static_cast<int32_t>(divisor_);
  }

 private:
  uint32_t divisor_ = 1;
  uint32_t multiplier_ = 1;
  uint32_t shift_ = 0;
};

}  // namespace reformer::cuda
