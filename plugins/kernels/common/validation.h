// Checks a call's parameters before any data is touched, and works out its sizes. Shared by every
// backend, so that all refuse the same input with the same words.
#pragma once

#include <cstdint>

#include "reformer_kernels.h"

namespace reformer {

// How much of a call to check.
enum class Extent {
  kShapes,  // a workspace query: data pointers may be null
  kCall,    // everything but the workspace
};

struct HashSizes {
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 0;
  int64_t rotation_size = 0;  // S
  int32_t masked_bucket = 0;  // N, the product of the factors, or 2 S without any
  bool empty = false;         // no tokens: nothing to do
};

struct AttentionSizes {
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
  bool wraps = true;  // the window, around either end
  bool dense = false;
  bool empty = false;  // no tokens: nothing to do
};

struct NormSizes {
  const char* op = "";
  int64_t rows = 0;   // B * L
  int64_t size = 0;   // N
  int64_t width = 0;  // of a normed row: N, or 2 N in FinalNorm
};

struct LinearSizes {
  int64_t rows = 0;     // M
  int64_t size = 0;     // K
  int64_t outputs = 0;  // N
  bool empty = false;   // nothing to write
};

struct StepSizes {
  int64_t batch = 0;
  int64_t length = 0;  // Q, new tokens that a row has room for
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 1;
  int64_t capacity = 0;  // P, tokens
  bool empty = false;    // no new tokens
};

struct BucketsStepSizes : StepSizes {
  int64_t columns = 0;            // S
  int64_t words = 0;              // W, records of a round
  bool shares_rotations = false;  // all heads
};

reformer_status check_lsh_buckets(const reformer_lsh_buckets_params* params, Extent extent,
                                  HashSizes* sizes);
reformer_status check_lsh_attention(const reformer_lsh_attention_params* params, Extent extent,
                                    AttentionSizes* sizes);
reformer_status check_local_attention(const reformer_local_attention_params* params, Extent extent,
                                      AttentionSizes* sizes);
reformer_status check_residual_norm(const reformer_residual_norm_params* params, Extent extent,
                                    NormSizes* sizes);
// A call without `packed` needs the operands of packing; packing needs nothing else.
reformer_status check_linear(const reformer_linear_params* params, Extent extent,
                             LinearSizes* sizes);
reformer_status check_linear_operands(const reformer_linear_params* params, Extent extent,
                                      LinearSizes* sizes);
reformer_status check_lsh_attention_step(const reformer_lsh_attention_step_params* params,
                                         Extent extent, StepSizes* sizes);
reformer_status check_local_attention_step(const reformer_local_attention_step_params* params,
                                           Extent extent, StepSizes* sizes);
reformer_status check_lsh_buckets_step(const reformer_lsh_buckets_step_params* params,
                                       Extent extent, BucketsStepSizes* sizes);
// Tokens that a row of a step may have with its new ones; a `ring` keeps the last ones only.
int64_t most_step_tokens(const reformer_chunking& chunking, const StepSizes& sizes, bool ring);
// Whether a row that holds `held` tokens may get `fresh` new ones.
reformer_status check_step_row(const char* op, const reformer_execution& execution,
                               const StepSizes& sizes, int64_t most_tokens, int64_t row,
                               int64_t held, int64_t fresh);
reformer_status check_workspace(const char* op, const reformer_execution& execution,
                                uint64_t needed);

// Writes "op: message" into the caller's buffer, if there is one, and returns `status`.
#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
reformer_status report(const reformer_execution& execution, const char* op, reformer_status status,
                       const char* format, ...);

}  // namespace reformer
