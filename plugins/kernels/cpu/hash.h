// Random-rotation hashing of blocks of tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/validation.h"
#include "kernels/cpu/tiles.h"

namespace reformer {

struct HashJob {
  HashSizes sizes;
  int32_t dtype = REFORMER_FLOAT32;
  const void* query_key = nullptr;   // T [B, L, H*D]
  const float* rotations = nullptr;  // [H, D, R, S]
  const int32_t* mask = nullptr;     // [B, L]
  int32_t* buckets = nullptr;        // [B, H, R, L]
  const int32_t* factors = nullptr;  // [num_factors]
  int32_t num_factors = 0;
};

// Where the records of a call's new tokens go (reformer_kernels.h, LSHBucketsStep).
struct RecordJob {
  HashJob hash;                          // Q tokens; without mask, buckets and factors
  const int32_t* lengths = nullptr;      // [B], tokens held
  const int32_t* new_lengths = nullptr;  // [B]
  int32_t* records = nullptr;            // [B, H, R*W, P]
  int64_t words = 0;                     // W
  bool shares_rotations = false;         // which are [1, D, R, S] then
  int64_t capacity = 0;                  // P
};

// A worker's scratch memory.
struct HashScratch {
  float* rows;     // [kLanes, padded D]
  float* tokens;   // [padded D, kHashTokens], tokens as columns
  float* rotated;  // [kHashColumns, kHashTokens]
  float* highest;  // [kHashTokens], of y so far
  float* lowest;
  int32_t* highest_at;
  int32_t* lowest_at;
  int32_t* bucket;
};

// The workers' scratch, one behind the other.
struct HashWorkspace {
  char* scratch;
  size_t scratch_bytes;  // of one worker
  size_t size;           // bytes to ask for
};

HashWorkspace layout_hash_workspace(const HashSizes& sizes, int32_t num_workers, void* block);

// One worker's.
HashScratch view_hash_scratch(const HashSizes& sizes, const HashWorkspace& workspace,
                              int64_t worker);

inline int64_t hash_blocks_per_entry(const HashSizes& sizes) {
  return divide_up(sizes.length, static_cast<int64_t>(kHashTokens));
}

// Hashes token blocks [begin, end) of the B * hash_blocks_per_entry * H ones.
using HashFunction = void (*)(const HashJob& job, HashScratch& scratch, int64_t begin, int64_t end);
HashFunction select_hash();

// The same blocks' records.
using RecordFunction = void (*)(const RecordJob& job, HashScratch& scratch, int64_t begin,
                                int64_t end);
RecordFunction select_records();

}  // namespace reformer
