// LSHAttentionStep and LocalAttentionStep on the CPU, on every instruction set: against the last
// rows of the whole operators' written-down reference, in memory of exactly the size that they may
// touch.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "compare.h"
#include "draw.h"
#include "reformer_kernels.h"
#include "step_call.h"
#include "targets.h"

namespace reformer::test {
namespace {

using Bytes = Step::Bytes;

void check_step(const Attention& call, const StepRows& rows, int index, int64_t room) {
  const int64_t row_elements = rows.tokens * call.heads * call.head_size;
  std::vector<float> expected(static_cast<size_t>(call.batch * row_elements), 0.0f);
  const Step described(call, rows, room);
  for (int64_t b = 0; b < call.batch; ++b) {
    const std::vector<float> row = step_reference(described, b);
    std::copy(row.begin(), row.end(), expected.begin() + b * row_elements);
  }
  for (const CpuTarget target : runnable_targets()) {
    set_cpu_target(target);
    Step step(call, rows, room);
    const reformer_status status = step.run(kCpuStep, 1, false);
    CHECK(status == REFORMER_OK, "case %d: %s", index, step.error);
    const double error = measure_error(call, step.read_output(), expected);
    CHECK(error < 2e-5, "case %d (%s, dtype %d, L %lld, R %lld, C %lld, before %lld, %s): error %g",
          index, call.lsh ? "LSH" : "local", call.dtype, static_cast<long long>(call.length),
          static_cast<long long>(call.rounds), static_cast<long long>(call.chunking.chunk_length),
          static_cast<long long>(call.chunking.num_chunks_before), cpu_target_name(), error);
    CHECK(step.present_keys == step.next_keys && step.present_values == step.next_values &&
              step.present_buckets == step.next_buckets,
          "case %d: caches", index);
    const Bytes output = step.output;
    CHECK(step.run(kCpuStep, 3, true) == REFORMER_OK, "case %d in place: %s", index, step.error);
    CHECK(step.output == output, "case %d differs in place or with 3 workers", index);
    CHECK(step.keys == step.next_keys && step.values == step.next_values &&
              step.buckets == step.next_buckets,
          "case %d: caches in place", index);
  }
}

// More tokens in the buckets around a window than are gathered, which is 4608 here, before what
// bounds it is known or even then; and a bucket for each token, near one another or far away.
void check_crowds(Random& random) {
  constexpr int64_t kLength = 10000;
  Attention call;
  call.heads = 2;
  call.length = kLength;
  call.head_size = 8;
  call.rounds = 2;
  call.chunking = {64, 1, 0, 128, 64, 1};
  call.query = draw_values(random, REFORMER_FLOAT32, kLength * 16, 1.0f);
  call.value = draw_values(random, REFORMER_FLOAT32, kLength * 16, 1.0f);
  call.mask.assign(kLength, 1);
  for (const int64_t highest : {0, 1, 12, 300, 5000, INT32_MAX}) {
    call.buckets.resize(4 * kLength);
    for (int32_t& bucket : call.buckets) {
      bucket = static_cast<int32_t>(draw_int(random, 0, highest));
    }
    check_step(call, last_tokens(call), -1, 7);
  }
}

// Whatever the caches hold, memory that is not the call's stays untouched.
void check_garbage(Random& random) {
  Attention call = draw_causal(random);
  while (!call.lsh) call = draw_causal(random);
  Step step(call, last_tokens(call), 2);
  for (size_t i = 0; i < step.buckets.size(); i += 3) step.buckets[i] = INT32_MIN;
  step.run(kCpuStep, 2, true);
}

void check_refusals(Random& random) {
  Attention call = draw_causal(random);
  while (!call.lsh || call.length < 2) call = draw_causal(random);
  const StepRows rows = last_tokens(call);
  Step long_row(call, rows, 0);
  long_row.rows.held.back() = static_cast<int32_t>(long_row.capacity);
  check_refusal(kCpuStep, REFORMER_ERROR_LENGTHS, "together at most", long_row);
  Step many(call, rows, 0);
  many.rows.fresh.back() = 2;
  check_refusal(kCpuStep, REFORMER_ERROR_LENGTHS, "new tokens of at most 1", many);
  Step negative(call, rows, 0);
  negative.rows.held[0] = -1;
  check_refusal(kCpuStep, REFORMER_ERROR_LENGTHS, "at least 0", negative);
  Step bucket(call, rows, 0);
  bucket.new_buckets.back() = -1;
  check_refusal(kCpuStep, REFORMER_ERROR_BUCKETS, "new_buckets", bucket);
  call.chunking.num_chunks_after = 1;
  Step after(call, rows, 0);
  check_refusal(kCpuStep, REFORMER_ERROR_ATTRIBUTE, "num_chunks_after is 1, expected 0 to 0",
                after);
  call.chunking.num_chunks_after = 0;
  call.dense_threshold = 3;
  call.chunking.padding_threshold = 4;
  Step unpadded(call, rows, 0);
  check_refusal(kCpuStep, REFORMER_ERROR_ATTRIBUTE, "padding_threshold is 4, expected 0 to 3",
                unpadded);
  call.self_logit = 1e9f;
  Step masked(call, rows, 0);
  check_refusal(kCpuStep, REFORMER_ERROR_ATTRIBUTE, "self_logit is 1e+09", masked);
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(12);
  for (int i = 0; i < cases; ++i) {
    const Attention call = draw_causal(random);
    check_step(call, last_tokens(call), i, i % 3);
    check_step(call, draw_rows(random, call), i, i % 3);
  }
  for (int i = 0; i < 20; ++i) check_garbage(random);
  check_crowds(random);
  check_refusals(random);
  return FINISH_TEST();
}
