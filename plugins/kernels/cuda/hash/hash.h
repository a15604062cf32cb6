// Random-rotation hashing, as kernels: rotations are packed once a call, then every block of tokens
// multiplies with them and keeps only the running argmax.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

// The columns that one round of hashing rotates onto: factor i has half_sizes[i] of them.
struct HashFactors {
  int32_t count = 0;
  int32_t half_sizes[REFORMER_MAX_BUCKET_FACTORS] = {};
};

// Columns come in groups of this many that belong to one factor; the last one's rest is padding.
constexpr int kHashGroup = 8;

// What T's kernel reads rotations as: parts of type T that add up to the float32 value, in tiles of
// columns.
template <typename T>
struct HashPacking {
  static constexpr int kParts = 1;
  static constexpr int kColumnTile = 64;
};
template <>
struct HashPacking<float16> {
  static constexpr int kParts = 2;  // 11 bits of mantissa each: 22, and 2 by the parts' signs
  static constexpr int kColumnTile = 32;
};
template <>
struct HashPacking<bfloat16> {
  static constexpr int kParts = 3;  // 8 bits each
  static constexpr int kColumnTile = 32;
};

template <typename T>
struct HashArguments {
  Global<const T> query_key;      // [B, L, H*D]
  Global<const float> rotations;  // [H, D, R, S]
  Global<const int32_t> mask;     // [B, L]
  Global<int32_t> buckets;        // [B, H, R, L]
  Global<T> packed;               // [H, kParts, padded_columns, padded_size]: see pack.cuh
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 0;
  int64_t rotation_size = 0;   // S
  int64_t round_columns = 0;   // packed columns of one round: whole groups
  int64_t padded_columns = 0;  // of all rounds: whole tiles
  int32_t padded_size = 0;     // head size, rounded up to what a kernel is made for
  int32_t masked_bucket = 0;   // N
  HashFactors factors;
  bool vector_rows = false;  // rows of query_key may be moved 16 bytes at a time
};

// Enqueues the packing and the hashing.
template <typename T>
reformer_status launch_hash(const HashArguments<T>& arguments, void* stream);

}  // namespace reformer::cuda
