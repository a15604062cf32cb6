// How both hashing kernels go through the packed columns, and what they remember of a token.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/hash/hash.h"

namespace reformer::cuda {

// Walks over the groups of packed columns: rounds, in them factors, in them groups. Every thread of
// a block walks alike.
class ColumnWalk {
 public:
  __device__ __forceinline__ ColumnWalk(const HashFactors& factors, int64_t rounds)
      : factors_(factors), rounds_(rounds) {}

  __device__ __forceinline__ bool is_done() const { return round_ == rounds_; }
  __device__ __forceinline__ int64_t round() const { return round_; }
  // The group's first column, within the factor.
  __device__ __forceinline__ int32_t first() const { return first_; }
  __device__ __forceinline__ int32_t half_size() const { return factors_.half_sizes[factor_]; }
  // Product of the earlier factors: what the factor's choice counts in the bucket.
  __device__ __forceinline__ int32_t stride() const { return stride_; }
  __device__ __forceinline__ bool ends_factor() const { return first_ + kHashGroup >= half_size(); }
  __device__ __forceinline__ bool ends_round() const {
    return ends_factor() && factor_ + 1 == factors_.count;
  }

  __device__ __forceinline__ void advance() {
    if (!ends_factor()) {
      first_ += kHashGroup;
    } else if (!ends_round()) {
      stride_ *= 2 * half_size();
      first_ = 0;
      ++factor_;
    } else {
      first_ = factor_ = 0;
      stride_ = 1;
      ++round_;
    }
  }

 private:
  const HashFactors& factors_;
  int64_t rounds_;
  int64_t round_ = 0;
  int32_t factor_ = 0;
  int32_t first_ = 0;
  int32_t stride_ = 1;
};

// The running argmax of (y, -y). A NaN is never taken, and with nothing taken the choice is 0.
struct RunningChoice {
  float highest = -kInfinity;
  float lowest = kInfinity;
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

  // Another choice among other columns.
  __device__ __forceinline__ void merge(float other_highest, int32_t other_highest_at,
                                        float other_lowest, int32_t other_lowest_at) {
    if (other_highest > highest || (other_highest == highest && other_highest_at < highest_at)) {
      highest = other_highest;
      highest_at = other_highest_at;
    }
    if (other_lowest < lowest || (other_lowest == lowest && other_lowest_at < lowest_at)) {
      lowest = other_lowest;
      lowest_at = other_lowest_at;
    }
  }

  // Index into concat(y, -y); a tie between both halves goes to the first.
  __device__ __forceinline__ int32_t choose(int32_t half_size) const {
    return highest >= -lowest ? highest_at : half_size + lowest_at;
  }
};

// The tokens that one block hashes: `rows` positions of one head.
struct HashBlock {
  int32_t pair;  // (batch, head)
  int32_t batch;
  int32_t head;
  int64_t first;  // position
};

template <typename T>
__device__ __forceinline__ HashBlock locate_hash_block(const HashArguments<T>& arguments,
                                                       int blocks_per_head, int rows) {
  const int heads = static_cast<int>(arguments.heads);
  HashBlock block;
  block.pair = static_cast<int>(blockIdx.x) / blocks_per_head;
  block.batch = block.pair / heads;
  block.head = block.pair % heads;
  block.first = int64_t{static_cast<int>(blockIdx.x) % blocks_per_head} * rows;
  return block;
}

// The head's row of a token.
template <typename T>
__device__ __forceinline__ Global<const T> find_row(const HashArguments<T>& arguments,
                                                    const HashBlock& block, int64_t position) {
  const int64_t token = block.batch * arguments.length + position;
  return arguments.query_key + (token * arguments.heads + block.head) * arguments.head_size;
}

template <typename T>
__device__ __forceinline__ void store_bucket(const HashArguments<T>& arguments,
                                             const HashBlock& block, int64_t round,
                                             int64_t position, int32_t bucket) {
  if (position >= arguments.length) return;
  const bool visible = arguments.mask[block.batch * arguments.length + position] != 0;
  arguments.buckets[(block.pair * arguments.rounds + round) * arguments.length + position] =
      visible ? bucket : arguments.masked_bucket;
}

}  // namespace reformer::cuda
