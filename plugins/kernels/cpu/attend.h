// The attention engine both attention operators share: for every chunk of an order of positions,
// softmax(q . k) v over the keys of the neighbouring chunks, added up over rounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/common/validation.h"
#include "kernels/cpu/tiles.h"

namespace reformer {

// The self_logit of a call in which a position's own key is as any.
constexpr float kNoSelfLogit = std::numeric_limits<float>::infinity();

// "Pair" is one (batch, head). The engine runs one round of a group of pairs at a time.
struct AttendJob {
  AttentionSizes sizes;
  int32_t dtype = REFORMER_FLOAT32;
  const void* query = nullptr;    // T [B, L, H*D]
  const void* key = nullptr;      // T [B, L, H*D]; the same tensor as query for LSH
  const void* value = nullptr;    // T [B, L, H*D]
  void* output = nullptr;         // T [B, L, H*D]
  const int32_t* mask = nullptr;  // [B, L]
  bool shared_query_key = false;  // LSH: normalised keys
  float key_norm_epsilon = 0;
  float self_logit = kNoSelfLogit;  // of a position's own key

  int64_t first_pair = 0;  // of the group
  int64_t group = 0;       // its pairs
  int64_t strip = 1;       // pairs of the group that take turns, chunk by chunk
  int64_t round = 0;
  const int32_t* order = nullptr;  // [group, R, Lp] positions; null: their own order
  float* lse_max = nullptr;        // [group, L], largest lse so far; unused when R is 1
  float* lse_sum = nullptr;        // [group, L], sum of exp(lse - lse_max)
  float* partial = nullptr;        // [group, L, D]; null: partial sums live in the output
};

// 64 or fewer keys and values, converted to float32 and laid out for the matrix products.
struct KeyTile {
  float* keys;          // [D, kTileKeys], scaled
  float* values;        // [kTileKeys, padded D]
  int32_t* positions;   // [kTileKeys]
  int32_t* visible;     // [kTileKeys] position, or kMaskedKey
  int32_t* seen_from;   // [kTileKeys] position of the first query that does not pass the key over
  float* fill;          // [kTileKeys] logit of a hidden key; -inf behind the last key
  size_t count;         // keys
  int32_t min_visible;  // lowest of seen_from: no query at a lower position sees a key of this tile
  int64_t tag;          // which tile of the call it holds; -1 for none
  int64_t stamp;        // when it was used last
};

// A worker's scratch memory.
struct AttendScratch {
  KeyTile* tiles;  // [num_tiles], a cache: neighbouring chunks share keys
  size_t num_tiles;
  int64_t clock;               // stamps given out
  float* query;                // [kQueryRows, padded D]
  float* result;               // [kQueryRows, padded D]
  float* rows;                 // [kTileKeys, padded D], keys before they are transposed
  float* logits;               // [kQueryRows, kSegmentTiles * kTileKeys]
  int32_t* positions;          // [kQueryRows]
  int32_t* segment_positions;  // [kSegmentTiles * kTileKeys], copies from the tiles
  int32_t* segment_visible;
  float* segment_fill;
  float* row_max;  // [kQueryRows]
  float* row_sum;
  float* old_scale;
  float* new_scale;
};

constexpr int32_t kMaskedKey = INT32_MAX;    // later than every causal limit
constexpr int32_t kNoLimit = INT32_MAX - 1;  // the limit of a query that sees every position
constexpr float kMaskedLogit = -1e9f;        // design contract, as in HF eager

inline bool needs_order(const AttendJob& job) { return job.shared_query_key && !job.sizes.dense; }

// Heads that take turns where positions are in their own order: their rows are side by side, in the
// same pages, and the tiles of all of them stay packed.
int64_t choose_strip(const AttendJob& job);

// Lays out one worker's scratch; with a measuring arena the result is not usable.
AttendScratch layout_attend_scratch(const AttendJob& job, WorkspaceArena& arena);

inline int64_t blocks_per_chunk(const AttentionSizes& sizes) {
  return divide_up(sizes.chunk_length, static_cast<int64_t>(kQueryRows));
}
inline int64_t blocks_per_round(const AttentionSizes& sizes) {
  return sizes.padded_length / sizes.chunk_length * blocks_per_chunk(sizes);
}

// Computes query blocks [begin, end) of the group's blocks_per_round * group ones.
using AttendFunction = void (*)(const AttendJob& job, AttendScratch& scratch, int64_t begin,
                                int64_t end);
AttendFunction select_attend();

}  // namespace reformer
