// Random-rotation hashing, as one kernel: every block turns the rotations that it multiplies with
// into parts that tensor cores multiply, and of the products it keeps only the running argmax.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

// The columns that one round of hashing rotates onto: factor i has half_sizes[i] of them.
struct HashFactors {
  int32_t count = 0;
  int32_t half_sizes[REFORMER_MAX_BUCKET_FACTORS] = {};
};

template <typename T>
struct HashArguments {
  Global<const T> query_key;      // [B, L, H*D]
  Global<const float> rotations;  // [H, D, R, S]
  Global<const int32_t> mask;     // [B, L]
  Global<int32_t> buckets;        // [B, H, R, L]
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  int32_t rounds = 0;         // R times S columns of 4 bytes are less than 2^31 bytes
  int32_t rotation_size = 0;  // S
  int32_t masked_bucket = 0;  // N
  HashFactors factors;
  bool vector_rows = false;  // rows of query_key may be moved 16 bytes at a time
};

// Enqueues the hashing.
template <typename T>
reformer_status launch_hash(const HashArguments<T>& arguments, void* stream);

}  // namespace reformer::cuda
