// LSHAttention and LocalAttention against the written-down reference, on every instruction set this
// machine has, and the same bits for every number of workers.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "compare.h"
#include "draw.h"
#include "half.h"
#include "reference.h"
#include "targets.h"

namespace reformer::test {
namespace {

void check_attention(const Attention& call, int index) {
  const std::vector<float> expected = attention_reference(call);
  for (const CpuTarget target : runnable_targets()) {
    set_cpu_target(target);
    const std::vector<float> got = run_attention(call, 1);
    const double error = measure_error(call, got, expected);
    CHECK(error < 2e-5, "case %d (%s, dtype %d, L %lld, D %lld, R %lld, C %lld, %s): error %g",
          index, call.lsh ? "LSH" : "local", call.dtype, static_cast<long long>(call.length),
          static_cast<long long>(call.head_size), static_cast<long long>(call.rounds),
          static_cast<long long>(call.chunking.chunk_length), cpu_target_name(), error);
    const int32_t workers = index % 20 == 0 ? 100 : 3;
    CHECK(run_attention(call, workers) == got, "case %d differs between 1 and %d workers (%s)",
          index, workers, cpu_target_name());
  }
}

// Equal logits everywhere: means of the values, whose rounding to T must be to nearest even.
void check_rounding(int32_t dtype) {
  Random random(7);
  Attention call;
  call.lsh = false;
  call.dtype = dtype;
  call.length = 2;
  call.head_size = 128;
  call.chunking = {2, 0, 0, 2, 2, 0};
  call.query.assign(256, 0.0f);
  call.key.assign(256, 0.0f);
  call.mask.assign(2, 1);
  for (int i = 0; i < 60; ++i) {
    const float scale = std::ldexp(1.0f, static_cast<int>(draw_int(random, -26, 12)));
    call.value = draw_values(random, dtype, 256, scale);
    const std::vector<float> got = run_attention(call, 1);
    for (size_t d = 0; d < 128; ++d) {
      const double mean =
          (static_cast<double>(call.value[d]) + static_cast<double>(call.value[128 + d])) / 2;
      const double step = spacing(dtype, mean);
      const double error = std::fabs(static_cast<double>(got[d]) - mean);
      CHECK(error <= 0.5 * step + 1e-6 * std::fabs(mean), "mean %g became %g", mean,
            static_cast<double>(got[d]));
    }
  }
}

// A dense block of more keys than a worker keeps packed, of which few are visible: what is packed
// for the first tile must outlast all the hidden ones.
void check_wide_window(Random& random, bool causal) {
  Attention call;
  call.length = 2200;
  call.head_size = 128;
  call.chunking = {64, 1, 0, 64, 0, causal ? 1 : 0};
  call.dense_threshold = 4096;
  call.query = draw_values(random, REFORMER_FLOAT32, call.length * 128, 1.0f);
  call.value = draw_values(random, REFORMER_FLOAT32, call.length * 128, 1.0f);
  call.buckets.assign(2200, 0);
  call.mask.assign(2200, 0);
  std::fill_n(call.mask.begin(), 10, 1);
  const double error = measure_error(call, run_attention(call, 2), attention_reference(call));
  CHECK(error < 2e-5, "error %g", error);
}

// Heads whose packed keys do not all stay in a worker's cache: they take turns in strips, of which
// the last one is narrower, and one has heads of two sequences.
void check_strips(Random& random, bool lsh) {
  Attention call;
  call.lsh = lsh;
  call.batch = 3;
  call.heads = 3;
  call.length = 500;
  call.head_size = 128;
  call.chunking = {256, 1, lsh ? 1 : 0, 256, 256, lsh ? 0 : 1};
  call.dense_threshold = 1024;  // of LSH: one chunk of every position, in its own order
  const int64_t count = call.batch * call.length * call.heads * call.head_size;
  call.query = draw_values(random, REFORMER_FLOAT32, count, 1.0f);
  call.key = draw_values(random, REFORMER_FLOAT32, lsh ? 0 : count, 1.0f);
  call.value = draw_values(random, REFORMER_FLOAT32, count, 1.0f);
  call.buckets.assign(static_cast<size_t>(call.batch * call.heads * call.length), 0);
  call.mask.assign(static_cast<size_t>(call.batch * call.length), 1);
  check_attention(call, lsh ? -1 : -2);
}

// A text has the same bits alone as in a batch of longer ones, where padding tokens follow it: also
// where a window is more than one segment, of which blocks leave out other parts.
void check_alone(Random& random, int64_t chunk_length) {
  Attention alone;
  alone.heads = 2;
  alone.head_size = 8;
  alone.rounds = 2;
  alone.chunking = {chunk_length, 1, 0, chunk_length, chunk_length, 1};
  const int64_t padded = draw_int(random, 2, 3) * chunk_length;
  // The last chunk's tokens are like one another, and often so few that they do not see all tiles
  // of the chunk before.
  const int64_t rest = draw_int(random, 1, draw_from(random, {3, chunk_length - 1}));
  alone.length = padded - chunk_length + rest;
  alone.query = draw_values(random, REFORMER_FLOAT32, padded * 16, 2.0f);
  alone.value = draw_values(random, REFORMER_FLOAT32, padded * 16, 1.0f);
  const int64_t alike = draw_int(random, 0, alone.length - rest);
  std::fill_n(alone.query.begin() + alike * 16, rest * 16, 3.0f);
  Attention batched = alone;
  batched.length = padded;
  const size_t size = static_cast<size_t>(alone.length * 16);
  alone.query.resize(size);
  alone.value.resize(size);
  alone.mask.assign(static_cast<size_t>(alone.length), 1);
  batched.mask = alone.mask;
  batched.mask.resize(static_cast<size_t>(padded), 0);
  for (int64_t row = 0; row < alone.heads * alone.rounds; ++row) {
    for (int64_t i = 0; i < padded; ++i) {
      const bool last = i >= alike && i < alike + rest;
      const int64_t bucket = i >= alone.length ? 64 : last ? 63 : draw_int(random, 0, 62);
      batched.buckets.push_back(static_cast<int32_t>(bucket));
      if (i < alone.length) alone.buckets.push_back(static_cast<int32_t>(bucket));
    }
  }
  std::vector<float> got = run_attention(batched, 2);
  got.resize(size);
  CHECK(got == run_attention(alone, 1), "L %lld, chunks of %lld: other bits than alone",
        static_cast<long long>(alone.length), static_cast<long long>(chunk_length));
}

// Two keys with logits 0 and x, of which only the second has a value: exp(x) / (1 + exp(x)), exact
// in proportion however small; nothing below what float32 can tell in full.
void check_exponentials() {
  constexpr int64_t kCount = 40000;
  Attention call;
  call.lsh = false;
  call.batch = kCount;
  call.length = 2;
  call.chunking = {2, 0, 0, 2, 2, 0};
  call.query.assign(2 * kCount, 1.0f);
  call.mask.assign(2 * kCount, 1);
  for (int64_t i = 0; i < kCount; ++i) {
    const float x = -110.0f * static_cast<float>(i) / static_cast<float>(kCount);
    call.key.insert(call.key.end(), {0.0f, i == 0 ? -HUGE_VALF : x});
    call.value.insert(call.value.end(), {0.0f, 1.0f});
  }
  for (const CpuTarget target : runnable_targets()) {
    set_cpu_target(target);
    const std::vector<float> got = run_attention(call, 1);
    for (size_t i = 0; i < got.size(); ++i) {
      const double weight = std::exp(static_cast<double>(call.key[i / 2 * 2 + 1]));
      const double expected = weight / (1 + weight);
      const double error = std::fabs(static_cast<double>(got[i]) - expected);
      CHECK(error <= 4e-7 * expected + 2e-38, "logit %g (%s): %g, expected %g",
            static_cast<double>(call.key[i / 2 * 2 + 1]), cpu_target_name(),
            static_cast<double>(got[i]), expected);
    }
  }
}

// NaN and infinity give some answer, without touching memory that is not the call's.
void check_not_finite(Random& random) {
  Attention call = draw_attention(random);
  call.dtype = REFORMER_FLOAT32;
  for (size_t i = 0; i < call.query.size(); i += 7) {
    call.query[i] = i % 2 == 0 ? std::nanf("") : -HUGE_VALF;
  }
  run_attention(call, 2);
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(1);
  for (int i = 0; i < cases; ++i) check_attention(draw_attention(random), i);
  for (const auto target : {reformer::CpuTarget::kFallback, reformer::CpuTarget::kAvx512}) {
    reformer::set_cpu_target(target);
    check_rounding(REFORMER_FLOAT16);
    check_rounding(REFORMER_BFLOAT16);
  }
  for (int i = 0; i < 20; ++i) check_not_finite(random);
  for (const bool causal : {false, true}) check_wide_window(random, causal);
  for (const bool lsh : {false, true}) check_strips(random, lsh);
  for (int i = 0; i < 10; ++i) {
    for (const int64_t chunk_length : {7, 64, 576}) check_alone(random, chunk_length);
  }
  check_exponentials();
  return FINISH_TEST();
}
