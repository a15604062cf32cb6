// One new token of a sequence against its cache, for every (batch, head).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/common/validation.h"
#include "kernels/cpu/tiles.h"

namespace reformer {

// A call of either step operator. The caches have the new tokens in them already.
struct StepJob {
  StepSizes sizes;
  reformer_chunking chunking{};
  int32_t dtype = REFORMER_FLOAT32;
  float key_norm_epsilon = 0;
  float self_logit = 0;                  // of the new token's own key, or infinity
  int64_t dense_threshold = 0;           // tokens
  bool wraps = true;                     // the window, around either end
  bool shared_query_key = false;         // LSH: normalised keys
  const void* query = nullptr;           // T [B, Q, H*D]
  const void* keys = nullptr;            // T [B, P, H*D]
  const void* values = nullptr;          // T [B, P, H*D]
  const int32_t* buckets = nullptr;      // [B, H, R, P]; null: a ring of positions modulo P
  const int32_t* lengths = nullptr;      // [B], before the new tokens
  const int32_t* new_lengths = nullptr;  // [B]
  void* output = nullptr;                // T [B, Q, H*D]
};

// Tokens of a round that a range of ranks may have.
struct RankCandidates {
  int32_t* positions;  // [room, and a vector more]
  int32_t* buckets;    // likewise
  size_t room;
};

// A worker's scratch memory.
struct StepScratch {
  RankCandidates candidates;
  float* query;       // [padded D]
  float* result;      // [padded D], of a round
  float* total;       // [padded D], over rounds
  int32_t* slots[2];  // [most_slots, and a vector more], places in the cache: of two rounds
  size_t most_slots;
  float* logits;   // [keys, up to whole vectors]
  float* squares;  // likewise, of the keys' lengths
};

// Keys that are held at once: a window's or a dense block's, of those there can be.
inline int64_t count_step_keys(const StepJob& job) {
  const int64_t window = (job.chunking.num_chunks_before + 1) * job.chunking.chunk_length;
  return std::min(std::max(window, job.dense_threshold), job.sizes.capacity);
}

// Lays out one worker's scratch; with a measuring arena the result is not usable.
StepScratch layout_step_scratch(const StepJob& job, WorkspaceArena& arena);

// The sizes that the whole operator has on a row of `length` tokens.
AttentionSizes row_sizes(const StepJob& job, int64_t length);

// Computes pairs [begin, end) of B * H: those of rows with one new token.
using StepFunction = void (*)(const StepJob& job, const StepScratch& scratch, int64_t begin,
                              int64_t end);
StepFunction select_step();

}  // namespace reformer
