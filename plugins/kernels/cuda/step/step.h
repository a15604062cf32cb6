// One new token of every row against its cache.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "reformer_kernels.h"

namespace reformer::cuda {

// What a step's launches work on: host code fills it, kernels take it by value.
template <typename T>
struct StepArguments {
  Global<const T> query;              // [B, Q, H*D], of the new tokens
  Global<const T> key;                // [B, Q, H*D]; LSH: the query
  Global<const T> value;              // [B, Q, H*D]
  Global<const int32_t> new_buckets;  // LSH: [B, H, R, Q]
  Global<T> keys;                     // [B, P, H*D], with the past in it
  Global<T> values;                   // [B, P, H*D]
  Global<int32_t> buckets;            // LSH: [B, H, R, P]
  Global<const int32_t> lengths;      // [B], tokens held
  Global<const int32_t> new_lengths;  // [B]
  Global<T> output;                   // [B, Q, H*D]
  Global<float> partial;              // [B, H, R, D] of several rounds
  Global<float> lse;                  // [B, H, R] of several rounds; natural logarithm
  int64_t batch = 0;
  int64_t tokens = 0;  // Q
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 1;
  int64_t capacity = 0;     // P
  int64_t most_tokens = 0;  // of a row with its new one
  uint32_t chunk_length = 0;
  uint32_t before = 0;
  uint32_t padding_multiple = 0;
  uint32_t padding_threshold = 0;
  uint32_t dense_threshold = 0;
  float key_norm_epsilon = 0;
  float self_logit = 0;      // of the token itself, or infinity: none of its own
  bool wraps = true;         // the window, around either end
  bool is_lsh = false;       // shared query and key, buckets; else a ring in the order of positions
  bool vector_rows = false;  // rows of all T tensors may be read 16 bytes at a time
};

// Enqueues the step of every row with one new token whose lengths fit: its token goes into the
// caches, its output to the first of its rows. Where Q is 1, the output of the other rows becomes
// 0; else they stay as they are. TOO_LARGE when the rows are more than a grid has blocks.
template <typename T>
reformer_status launch_step(const StepArguments<T>& arguments, void* stream);

}  // namespace reformer::cuda
