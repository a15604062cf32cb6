// What an attention launch works on: host code fills it, kernels take it by value.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/common/validation.h"
#include "kernels/cuda/attention/base2.h"
#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename T>
struct AttentionArguments {
  Global<const T> query;  // [B, L, H*D]
  Global<const T> key;    // [B, L, H*D]; LSH: the query
  Global<const T> value;  // [B, L, H*D]
  // LSH: [B, H, L], log2(e) / (sqrt(mean(x^2) + eps) * sqrt(D)); negative where the mask is 0.
  Global<const float> key_scale;
  Global<const int32_t> mask;   // local attention: [B, L]
  Global<const int32_t> order;  // [B, H, R, L], unless identity_order
  Global<T> output;             // [B, L, H*D], when direct
  Global<T> partial;            // [B, R, L, H*D] otherwise
  Global<float> lse;            // [B, H, R, L] otherwise; natural logarithm
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 1;
  int64_t padded_length = 0;  // Lp; the length itself in a dense block
  int64_t chunk_length = 0;   // the length itself in a dense block
  int64_t before = 0;
  int64_t after = 0;
  bool causal = false;
  bool wraps = true;            // the window, around either end
  bool is_lsh = false;          // shared query and key: scaled keys
  bool avoids_self = false;     // a position's own key has the logit self_logit
  bool identity_order = false;  // dense, or local attention
  bool direct = false;          // one round: rows are final and go to `output`
  bool vector_rows = false;     // rows of all T tensors may be moved 16 bytes at a time
  float local_scale = 0;        // local attention: log2(e) / sqrt(D)
  // Natural and base 2; infinity, which no logit is, unless avoids_self.
  float self_logit = std::numeric_limits<float>::infinity();
  float self_score = std::numeric_limits<float>::infinity();
};

// What both attention operators fill alike.
template <typename T>
AttentionArguments<T> describe_attention(const AttentionSizes& sizes, float self_logit) {
  AttentionArguments<T> arguments;
  arguments.batch = sizes.batch;
  arguments.length = sizes.length;
  arguments.heads = sizes.heads;
  arguments.head_size = sizes.head_size;
  arguments.rounds = sizes.rounds;
  arguments.padded_length = sizes.padded_length;
  arguments.chunk_length = sizes.chunk_length;
  arguments.before = sizes.before;
  arguments.after = sizes.after;
  arguments.causal = sizes.causal;
  arguments.wraps = sizes.wraps;
  arguments.avoids_self = std::isfinite(self_logit);
  arguments.self_logit = self_logit;
  arguments.self_score = self_logit * kLog2E;
  return arguments;
}

}  // namespace reformer::cuda
