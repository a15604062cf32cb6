// Adds up the rounds of LSH attention.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename T>
struct CombineArguments {
  Global<const T> partial;  // [B, R, L, H*D]
  Global<const float> lse;  // [B, H, R, L]
  Global<T> output;         // [B, L, H*D]
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 0;
  bool vector_rows = false;  // rows of partial and output may be moved 16 bytes at a time
};

// output = sum_r exp(lse_r - lse) * partial_r, lse = logsumexp_r(lse_r) rounded to float32.
template <typename T>
reformer_status launch_combine(const CombineArguments<T>& arguments, void* stream);

}  // namespace reformer::cuda
