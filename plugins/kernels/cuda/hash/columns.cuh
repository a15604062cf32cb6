// How the hashing goes through the rotations' columns, and what it remembers of a token.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/divisor.h"
#include "kernels/cuda/hash/hash.h"

namespace reformer::cuda {

// Columns are taken in groups of this many, the width of a matrix step, that belong to one factor;
// what the last group of a factor lacks is zeros.
constexpr int kHashGroup = 8;

__host__ __device__ constexpr int32_t count_hash_groups(int32_t half_size) {
  return (half_size + kHashGroup - 1) / kHashGroup;
}

// A group of columns, and the way over all of them: rounds, in them factors, in them groups.
class ColumnWalk {
 public:
  // At the group `index` of all. by_round_groups: the groups of a round.
  __device__ __forceinline__ ColumnWalk(const HashFactors& factors, const Divisor& by_round_groups,
                                        int32_t index)
      : factors_(factors),
        round_(by_round_groups.divide(index)),
        half_size_(factors.half_sizes[0]) {
    int32_t group = by_round_groups.remainder(index, round_);
    for (int32_t groups; group >= (groups = count_hash_groups(half_size_)); group -= groups) {
      go_to_next_factor();
    }
    first_ = group * kHashGroup;
  }

  __device__ __forceinline__ int32_t round() const { return round_; }
  // The group's first column, within the factor and within the round.
  __device__ __forceinline__ int32_t first() const { return first_; }
  __device__ __forceinline__ int32_t first_of_round() const { return factor_first_ + first_; }
  __device__ __forceinline__ int32_t half_size() const { return half_size_; }
  // Product of the earlier factors: what the factor's choice counts in the bucket.
  __device__ __forceinline__ int32_t stride() const { return stride_; }
  __device__ __forceinline__ bool ends_factor() const { return first_ + kHashGroup >= half_size_; }
  __device__ __forceinline__ bool ends_round() const {
    return ends_factor() && factor_ + 1 == factors_.count;
  }

  __device__ __forceinline__ void advance() {
    if (!ends_factor()) {
      first_ += kHashGroup;
      return;
    }
    first_ = 0;
    if (factor_ + 1 < factors_.count) {
      go_to_next_factor();
      return;
    }
    factor_ = factor_first_ = 0;
    half_size_ = factors_.half_sizes[0];
    stride_ = 1;
    ++round_;
  }

 private:
  __device__ __forceinline__ void go_to_next_factor() {
    stride_ *= 2 * half_size_;
    factor_first_ += half_size_;
    half_size_ = factors_.half_sizes[++factor_];
  }

  const HashFactors& factors_;
  int32_t round_;
  int32_t factor_ = 0;
  int32_t factor_first_ = 0;  // the factor's first column, within the round
  int32_t half_size_;
  int32_t first_ = 0;
  int32_t stride_ = 1;
};

// A choice among columns: the index into concat(y, -y) and the element there.
struct Choice {
  float value;
  int32_t index;

  // Another choice among other columns: the lowest index wins a tie.
  __device__ __forceinline__ void merge(float other_value, int32_t other_index) {
    if (other_value > value || (other_value == value && other_index < index)) {
      value = other_value;
      index = other_index;
    }
  }
};

// The running argmax of (y, -y). Neither a zero nor a NaN is ever taken, so that what is no column
// may be zero; with nothing taken the choice is 0.
struct RunningChoice {
  float highest = 0;
  float lowest = 0;
  int32_t highest_at = 0;
  int32_t lowest_at = 0;

  // Columns come in rising order: the first of equals stays.
  __device__ __forceinline__ void add(float y, int32_t column) {
    if (y > highest) {
      highest = y;
      highest_at = column;
    }
    if (y < lowest) {
      lowest = y;
      lowest_at = column;
    }
  }

  // A tie between both halves goes to the first.
  __device__ __forceinline__ Choice choose(int32_t half_size) const {
    const bool positive = highest >= -lowest;
    return {positive ? highest : -lowest, positive ? highest_at : half_size + lowest_at};
  }
};

}  // namespace reformer::cuda
