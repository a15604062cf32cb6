#include "attention_cases.h"

#include <algorithm>

#include "check.h"
#include "compare.h"
#include "control.h"
#include "cuda_backend.h"
#include "reference.h"

namespace reformer::test {

Attention fill_attention(Random& random, const Shape& shape, int32_t dtype, bool lsh, bool causal) {
  Attention call;
  call.lsh = lsh;
  call.dtype = dtype;
  call.batch = shape.batch;
  call.length = shape.length;
  call.heads = shape.heads;
  call.head_size = shape.head_size;
  call.rounds = shape.rounds;
  call.chunking = {shape.chunk_length, shape.before,       shape.after,
                   shape.chunk_length, shape.chunk_length, causal ? 1 : 0};
  const int64_t count = shape.batch * shape.length * shape.heads * shape.head_size;
  call.query = draw_values(random, dtype, count, 1.0f);
  call.value = draw_values(random, dtype, count, 1.0f);
  if (!lsh) call.key = draw_values(random, dtype, count, 1.0f);
  call.mask = draw_mask(random, shape.batch, shape.length);
  if (!lsh) return call;
  const int64_t buckets = shape.batch * shape.heads * shape.rounds * shape.length;
  for (int64_t i = 0; i < buckets; ++i) {
    call.buckets.push_back(static_cast<int32_t>(draw_int(random, 0, shape.highest_bucket)));
  }
  return call;
}

AttentionCase::AttentionCase(const Attention& call)
    : call_(call), expected_(attention_reference(call)) {}

double AttentionCase::measure(uint32_t seed) const {
  cuda::emulation::set_seed(seed);
  return measure_error(call_, run_attention(call_, 1, kCudaBackend), expected_);
}

double attention_tolerance(const Attention& call) {
  if (call.dtype == REFORMER_FLOAT16) return 2e-3;
  if (call.dtype == REFORMER_BFLOAT16) return 1e-2;
  // A row that sees nothing adds up its whole window, each value with weight 1: the rounding of
  // such sums grows with the window.
  const reformer_chunking& chunking = call.chunking;
  const int64_t window =
      (chunking.num_chunks_before + 1 + chunking.num_chunks_after) * chunking.chunk_length;
  return 1e-5 * std::max(1.0, static_cast<double>(window) / 512);
}

void check_attention(const Attention& call, uint32_t seed, const std::string& label) {
  const AttentionCase attention(call);
  const double error = attention.measure(seed);
  CHECK(
      error <= attention_tolerance(call),
      "%s (%s, dtype %d, B %lld, H %lld, L %lld, D %lld, R %lld, C %lld, before %lld, after %lld, "
      "causal %d, offset %lld): error %g",
      label.c_str(), call.lsh ? "LSH" : "local", call.dtype, static_cast<long long>(call.batch),
      static_cast<long long>(call.heads), static_cast<long long>(call.length),
      static_cast<long long>(call.head_size), static_cast<long long>(call.rounds),
      static_cast<long long>(call.chunking.chunk_length),
      static_cast<long long>(call.chunking.num_chunks_before),
      static_cast<long long>(call.chunking.num_chunks_after), call.chunking.is_causal,
      static_cast<long long>(call.offset), error);
}

}  // namespace reformer::test
