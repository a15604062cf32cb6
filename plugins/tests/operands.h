// Operands of one operator call in plain float vectors, and calls of the kernels on them.
#pragma once

#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "reformer_kernels.h"

namespace reformer::test {

// The functions of one backend.
struct Backend {
  const char* name;
  reformer_status (*lsh_buckets_workspace)(const reformer_lsh_buckets_params*, uint64_t*);
  reformer_status (*lsh_buckets)(const reformer_lsh_buckets_params*);
  reformer_status (*lsh_attention_workspace)(const reformer_lsh_attention_params*, uint64_t*);
  reformer_status (*lsh_attention)(const reformer_lsh_attention_params*);
  reformer_status (*local_attention_workspace)(const reformer_local_attention_params*, uint64_t*);
  reformer_status (*local_attention)(const reformer_local_attention_params*);
};
extern const Backend kCpuBackend;

// One attention call. Tensors T are kept as the float values their elements have.
struct Attention {
  bool lsh = true;
  int32_t dtype = REFORMER_FLOAT32;
  int64_t batch = 1, length = 1, heads = 1, head_size = 1, rounds = 1;
  reformer_chunking chunking{};
  std::optional<float> self_logit;         // else transformers' rule
  std::optional<int64_t> dense_threshold;  // LSH; else the chunk length
  bool wraps = true;                       // local attention
  std::vector<float> query, key, value;    // [B, L, H*D]; LSH has no key
  std::vector<int32_t> buckets;            // [B, H, R, L]
  std::vector<int32_t> mask;               // [B, L]
  float epsilon = 1e-6f;
  int64_t offset = 0;  // elements by which T tensors start behind a multiple of 16 bytes

  // -1e5 in LSH attention, none in local attention.
  float own_logit() const {
    return self_logit.value_or(lsh ? -1e5f : std::numeric_limits<float>::infinity());
  }
  int64_t most_dense() const { return dense_threshold.value_or(chunking.chunk_length); }
};

struct Hash {
  int32_t dtype = REFORMER_FLOAT32;
  int64_t batch = 1, length = 1, heads = 1, head_size = 1, rounds = 1;
  std::vector<int32_t> factors;
  std::vector<float> query_key;  // [B, L, H*D]
  std::vector<float> rotations;  // [H, D, R, S]
  std::vector<int32_t> mask;     // [B, L]
  int64_t offset = 0;            // elements by which query_key starts behind 16 bytes' multiple
  int64_t columns = 0;           // S, where there are no factors

  std::vector<int32_t> all_factors() const {
    return factors.empty() ? std::vector<int32_t>{static_cast<int32_t>(2 * columns)} : factors;
  }
  int64_t rotation_size() const {
    const std::vector<int32_t> all = all_factors();
    return std::accumulate(all.begin(), all.end(), int64_t{0}) / 2;
  }
};

// Bytes of T elements holding `values`, rounded.
std::vector<char> encode(int32_t dtype, const std::vector<float>& values);
std::vector<float> decode(int32_t dtype, const std::vector<char>& bytes);

// Calls the kernel with `workers` threads; CHECKs that it succeeds.
std::vector<float> run_attention(const Attention& call, int32_t workers,
                                 const Backend& backend = kCpuBackend);
std::vector<int32_t> run_hash(const Hash& call, int32_t workers,
                              const Backend& backend = kCpuBackend);

// A parallel_for that starts a thread for every item.
void run_on_threads(void* context, int64_t total, reformer_task task, void* argument);

}  // namespace reformer::test
