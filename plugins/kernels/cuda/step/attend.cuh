// One query against listed tokens of a cache, by a block: groups of lanes have a token each, and
// keep a softmax of their own until all meet.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/step/buckets.cuh"
#include "kernels/cuda/step/step.h"

namespace reformer::cuda {

// A lane's share of a row of D elements: pieces of 16 bytes, or elements.
template <typename T, bool kVector>
constexpr int kStepElements = kVector ? kVectorElements<T> : 1;
template <typename T, bool kVector>
constexpr int kStepPieces = REFORMER_CUDA_MAX_HEAD_SIZE / (kWarpSize * kStepElements<T, kVector>);

template <typename T, bool kVector>
struct RowShare {
  float at[kStepPieces<T, kVector>][kStepElements<T, kVector>];
};

// Where a block's head is.
struct StepBlock {
  int64_t batch;
  int64_t pair;  // batch * heads + head
  int64_t head;
  int64_t round;
  int64_t line;   // pair * rounds + round
  int64_t token;  // element of the head in the tensors of new tokens
  int64_t cache;  // element of the head in the caches
  uint32_t held;  // tokens, of a row that steps
  bool steps;
};

template <typename T, bool kVector, bool kLsh>
class QueryAttention {
 public:
  // `lanes`, a power of two up to a warp, share a row.
  __device__ __forceinline__ QueryAttention(const StepArguments<T>& arguments,
                                            const StepBlock& block, int lanes)
      : arguments_(arguments), block_(block), lanes_(lanes) {
    load_row(arguments.query + block.token, query_);
  }

  // Takes tokens position_of(0) to position_of(count - 1) in.
  template <typename PositionOf>
  __device__ __forceinline__ void attend(uint32_t count, const PositionOf& position_of) {
    const uint32_t groups = static_cast<uint32_t>(kWarpSize / lanes_);
    const uint32_t group = step_lane() / static_cast<uint32_t>(lanes_);
    for (uint32_t first = step_warp() * groups; first < count;
         first += count_step_warps() * groups) {
      const bool exists = first + group < count;
      take_in(exists, exists ? position_of(first + group) : block_.held);
    }
  }

  // Adds up what the block's groups have, [D], in `shared`, and writes it: as the output, or as
  // that of a round with its logsumexp, which is rounded to float32 before it is subtracted.
  __device__ __forceinline__ void finish(float* shared) {
    for (int step = lanes_; step < kWarpSize; step *= 2) merge_groups(step);
    const int size = static_cast<int>(arguments_.head_size);
    const int warps = static_cast<int>(count_step_warps());
    float* highest_of = shared + warps * size;
    float* sum_of = highest_of + warps;
    float* row = shared + static_cast<int>(step_warp()) * size;
    if (static_cast<int>(step_lane()) < lanes_) {
      visit_row([&](int column, float& value) { row[column] = value; }, result_);
    }
    if (step_lane() == 0) {
      highest_of[step_warp()] = highest_;
      sum_of[step_warp()] = sum_;
    }
    __syncthreads();
    float highest = highest_of[0];
    for (int warp = 1; warp < warps; ++warp) highest = fmaxf(highest, highest_of[warp]);
    float sum = 0;
    for (int warp = 0; warp < warps; ++warp) sum += sum_of[warp] * expf(highest_of[warp] - highest);
    const float lse = highest + logf(sum);
    const float factor = expf(highest - lse);
    for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
      float value = 0;
      for (int warp = 0; warp < warps; ++warp) {
        value += shared[warp * size + i] * expf(highest_of[warp] - highest);
      }
      write(i, value * factor);
    }
    if (arguments_.rounds > 1 && threadIdx.x == 0) arguments_.lse[block_.line] = lse;
  }

 private:
  using Row = RowShare<T, kVector>;

  // visit(column, value) for a lane's elements of a row.
  template <typename Visit>
  __device__ __forceinline__ void visit_row(const Visit& visit, Row& row) const {
    const int size = static_cast<int>(arguments_.head_size);
    const int lane = static_cast<int>(step_lane()) & (lanes_ - 1);
#pragma unroll
    for (int p = 0; p < kStepPieces<T, kVector>; ++p) {
      const int column = (p * lanes_ + lane) * kStepElements<T, kVector>;
      if (column >= size) continue;
#pragma unroll
      for (int i = 0; i < kStepElements<T, kVector>; ++i) visit(column + i, row.at[p][i]);
    }
  }

  // What lies behind a row's end is 0.
  __device__ __forceinline__ void load_row(const Global<const T>& source, Row& row) const {
    const int size = static_cast<int>(arguments_.head_size);
    const int lane = static_cast<int>(step_lane()) & (lanes_ - 1);
#pragma unroll
    for (int p = 0; p < kStepPieces<T, kVector>; ++p) {
      const int column = (p * lanes_ + lane) * kStepElements<T, kVector>;
      if constexpr (kVector) {
        unpack_vector<T>(column < size ? load_vector(source + column) : Vector16{}, row.at[p]);
      } else {
        row.at[p][0] = column < size ? to_float(source[column]) : 0.0f;
      }
    }
  }

  // Logit of a key, which LSH normalises: q . k / (sqrt(mean(k^2) + epsilon) sqrt(D)).
  __device__ __forceinline__ float score_key(const Row& key) const {
    float products = 0;
    float squares = 0;
#pragma unroll
    for (int p = 0; p < kStepPieces<T, kVector>; ++p) {
#pragma unroll
      for (int i = 0; i < kStepElements<T, kVector>; ++i) {
        products += query_.at[p][i] * key.at[p][i];
        if constexpr (kLsh) squares += key.at[p][i] * key.at[p][i];
      }
    }
    for (int step = lanes_ / 2; step > 0; step /= 2) {
      products += __shfl_xor_sync(kFullWarp, products, step);
      if constexpr (kLsh) squares += __shfl_xor_sync(kFullWarp, squares, step);
    }
    const float size = static_cast<float>(arguments_.head_size);
    float norm = sqrtf(size);
    if constexpr (kLsh) norm *= sqrtf(squares / size + arguments_.key_norm_epsilon);
    return products / norm;
  }

  // One token of every group; a token that does not exist weighs nothing.
  __device__ __forceinline__ void take_in(bool exists, uint32_t position) {
    const bool own = position == block_.held;
    uint32_t slot = position;
    if constexpr (!kLsh) slot %= static_cast<uint32_t>(arguments_.capacity);
    const int64_t width = arguments_.heads * arguments_.head_size;
    const int64_t place = block_.cache + (own ? 0 : slot * width);
    const Global<const T> keys = arguments_.keys;
    const Global<const T> values = arguments_.values;
    Row key, value;
    load_row(own ? arguments_.key + block_.token : keys + place, key);
    load_row(own ? arguments_.value + block_.token : values + place, value);
    float logit = score_key(key);
    if (own && arguments_.self_logit < kInfinity) logit = arguments_.self_logit;
    if (!exists) logit = -kInfinity;
    const float highest = fmaxf(highest_, logit);
    const float shrink = expf(highest_ - highest);
    const float weight = expf(logit - highest);
    highest_ = highest;
    sum_ = sum_ * shrink + weight;
#pragma unroll
    for (int p = 0; p < kStepPieces<T, kVector>; ++p) {
#pragma unroll
      for (int i = 0; i < kStepElements<T, kVector>; ++i) {
        result_.at[p][i] = result_.at[p][i] * shrink + weight * value.at[p][i];
      }
    }
  }

  // Adds up two groups, `step` lanes apart.
  __device__ __forceinline__ void merge_groups(int step) {
    const float highest = fmaxf(highest_, __shfl_xor_sync(kFullWarp, highest_, step));
    const float factor = expf(highest_ - highest);
    highest_ = highest;
    sum_ *= factor;
    sum_ += __shfl_xor_sync(kFullWarp, sum_, step);
#pragma unroll
    for (int p = 0; p < kStepPieces<T, kVector>; ++p) {
#pragma unroll
      for (int i = 0; i < kStepElements<T, kVector>; ++i) {
        result_.at[p][i] *= factor;
        result_.at[p][i] += __shfl_xor_sync(kFullWarp, result_.at[p][i], step);
      }
    }
  }

  __device__ __forceinline__ void write(int column, float value) const {
    if (arguments_.rounds > 1) {
      arguments_.partial[block_.line * arguments_.head_size + column] = value;
    } else {
      arguments_.output[block_.token + column] = from_float<T>(value);
    }
  }

  const StepArguments<T>& arguments_;
  const StepBlock& block_;
  const int lanes_;
  Row query_;
  // What was added up so far: result = sum exp(logit - highest) v.
  Row result_ = {};
  float highest_ = -std::numeric_limits<float>::max();
  float sum_ = 0;
};

}  // namespace reformer::cuda
