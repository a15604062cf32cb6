// LSHAttentionStep and LocalAttentionStep on the emulated device, through the C interface, against
// the last rows of the whole operators' written-down reference.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "attention_cases.h"
#include "check.h"
#include "control.h"
#include "draw.h"
#include "step_cases.h"

namespace reformer::test {
namespace {

constexpr int32_t kTypes[] = {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16};

// A call that the reference and the emulation can afford; one in four is not aligned to 16 bytes.
Attention draw_affordable(Random& random) {
  for (;;) {
    Attention call = draw_causal(random);
    const int64_t window = (call.chunking.num_chunks_before + 1) * call.chunking.chunk_length;
    if (call.batch * call.heads * call.rounds * call.length * std::max<int64_t>(window, 64) *
            std::max<int64_t>(call.head_size, 16) >
        8'000'000) {
      continue;
    }
    if (draw_int(random, 0, 3) == 0) call.offset = draw_int(random, 1, 3);
    return call;
  }
}

void check_drawn(Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    const Attention call = draw_affordable(random);
    const uint32_t seed = static_cast<uint32_t>(2 * i + 1);
    check_step(call, last_tokens(call), i % 3, seed, "case " + std::to_string(i));
    check_step(call, draw_rows(random, call), i % 3, seed + 1, "rows " + std::to_string(i));
    if (i % 8 != 0) continue;
    Step step(call, last_tokens(call), 0);
    cuda::emulation::set_seed(seed);
    CHECK(step.run(kCudaStep, 1, false) == REFORMER_OK, "%s", step.error);
    const Step::Bytes output = step.output;
    cuda::emulation::set_seed(seed + 1);
    CHECK(step.run(kCudaStep, 1, false) == REFORMER_OK && step.output == output,
          "case %d differs in another thread order", i);
  }
}

// Every length across the borders of chunks, padding and rounds, as rows of one batch. A first
// token that is listed twice has a logsumexp of -1e5 + log 2, which float32 rounds by up to 2^-8.
void check_lengths(Random& random) {
  for (const int64_t before : {0, 1, 2, 3}) {
    for (const bool lsh : {true, false}) {
      const int64_t rounds = lsh ? 1 + before % 2 : 1;
      Attention call =
          fill_attention(random, {26, 26, 1, 8, rounds, 4, before, 0, 5},
                         before == 2 ? REFORMER_FLOAT32 : kTypes[before % 3], lsh, true);
      call.chunking.padding_multiple = 8;
      call.chunking.padding_threshold = before % 2;
      call.mask.assign(call.mask.size(), 1);
      StepRows rows = last_tokens(call);
      for (size_t b = 0; b < rows.held.size(); ++b) rows.held[b] = static_cast<int32_t>(b);
      check_step(call, rows, 0, 5, "lengths");
    }
  }
}

// Few buckets and many, of one digit and of four, around windows of more keys than are listed at
// once, in rounds that the window wraps into.
void check_crowds(Random& random) {
  const Shape shapes[] = {
      {1, 700, 2, 8, 2, 64, 1, 0, 0},         {1, 700, 1, 16, 2, 64, 1, 0, 2},
      {1, 700, 1, 8, 1, 64, 3, 0, 300},       {1, 1500, 1, 8, 1, 700, 1, 0, 40},
      {2, 700, 1, 8, 3, 64, 9, 0, INT32_MAX}, {1, 90, 1, 256, 2, 16, 1, 0, 1 << 17}};
  uint32_t seed = 1;
  for (const Shape& shape : shapes) {
    for (const int32_t dtype : kTypes) {
      Attention call = fill_attention(random, shape, dtype, true, true);
      call.mask.assign(call.mask.size(), 1);
      check_step(call, last_tokens(call), 7, ++seed, "crowds");
    }
  }
}

// A cache with room for more than its rows hold has more threads.
void check_room(Random& random) {
  for (const int32_t highest : {40, INT32_MAX}) {
    Attention call =
        fill_attention(random, {2, 600, 2, 8, 2, 32, 1, 0, highest}, REFORMER_FLOAT16, true, true);
    call.mask.assign(call.mask.size(), 1);
    check_step(call, last_tokens(call), 20000, 3, "room");
  }
}

// Rows whose lengths do not fit rest: their outputs are 0, and nothing is written for them. With
// one new token nothing is read back.
void check_unfit_rows(Random& random) {
  for (const bool lsh : {true, false}) {
    Attention call =
        fill_attention(random, {7, 20, 2, 8, lsh ? 2 : 1, 8, 1, 0, 9}, REFORMER_FLOAT32, lsh, true);
    call.mask.assign(call.mask.size(), 1);
    Step step(call, last_tokens(call), 0);
    const Step same(call, last_tokens(call), 0);
    const int32_t too_many = lsh ? 20 : INT32_MAX - 9;
    step.rows.held = {19, -1, too_many, 3, 3, INT32_MIN, 19};
    step.rows.fresh = {1, 1, 1, 2, -1, 1, 0};
    const int reads = cuda::emulation::count_read_backs();
    const int launches = cuda::emulation::count_launches();
    CHECK(step.run(kCudaStep, 1, true) == REFORMER_OK, "%s", step.error);
    CHECK(cuda::emulation::count_read_backs() == reads, "a step read from the device");
    CHECK(cuda::emulation::count_launches() == launches + (lsh ? 2 : 1), "%d launches",
          cuda::emulation::count_launches() - launches);
    const std::vector<float> output = step.read_output();
    for (size_t i = 0; i < output.size(); ++i) {
      CHECK((output[i] != 0) == (i < 16), "output %zu is %g", i, output[i]);
    }
    const size_t row = step.keys.size() / 7;
    CHECK(std::equal(step.keys.begin() + row, step.keys.end(), same.keys.begin() + row) &&
              std::equal(step.values.begin() + row, step.values.end(), same.values.begin() + row),
          "a row that rests was written");
    CHECK(std::equal(step.keys.begin(), step.keys.begin() + row, same.next_keys.begin()),
          "the row that steps was not");
    const size_t lines = step.buckets.size() / 7;
    CHECK(
        std::equal(step.buckets.begin() + lines, step.buckets.end(), same.buckets.begin() + lines),
        "buckets of a row that rests were written");
  }
}

// With several new tokens the lengths are read back, and refused as they are on the CPU.
void check_refusals(Random& random) {
  Attention call =
      fill_attention(random, {2, 20, 1, 8, 1, 8, 1, 0, 9}, REFORMER_FLOAT32, true, true);
  StepRows rows = last_tokens(call);
  rows.tokens = 3;
  Step long_row(call, rows, 0);
  long_row.rows.held.back() = 20;
  check_refusal(kCudaStep, REFORMER_ERROR_LENGTHS, "together at most 20", long_row);
  Step many(call, rows, 0);
  many.rows.fresh.back() = 2;
  check_refusal(kCudaStep, REFORMER_ERROR_LENGTHS, "row 1 holds 19 tokens and gets 2", many);
  Step negative(call, rows, 0);
  negative.rows.held[0] = -1;
  check_refusal(kCudaStep, REFORMER_ERROR_LENGTHS, "at least 0", negative);
  Step more(call, rows, 0);
  more.rows.held[0] = 0;
  more.rows.fresh[0] = 4;
  check_refusal(kCudaStep, REFORMER_ERROR_LENGTHS, "new tokens of at most 3", more);
  cuda::emulation::refuse_launch_after(0);
  Step unread(call, rows, 0);
  check_refusal(kCudaStep, REFORMER_ERROR_LAUNCH, "could not be read back", unread);
  cuda::emulation::refuse_launch_after(-1);
}

// More rows than lengths are read at once.
void check_many_rows(Random& random) {
  Attention call =
      fill_attention(random, {600, 3, 1, 1, 1, 2, 0, 0, 3}, REFORMER_FLOAT32, true, true);
  call.mask.assign(call.mask.size(), 1);
  StepRows rows = draw_rows(random, call);
  rows.tokens = 3;
  rows.held[599] = 0;
  rows.fresh[599] = 3;
  check_step(call, rows, 0, 9, "many rows");
}

// A negative bucket sorts behind the others, and whatever the caches hold, memory that is not the
// call's stays untouched.
void check_negative_buckets(Random& random) {
  Attention call =
      fill_attention(random, {2, 300, 2, 8, 2, 32, 1, 0, 9}, REFORMER_FLOAT16, true, true);
  Step step(call, last_tokens(call), 2);
  Step ordered(call, last_tokens(call), 2);
  for (size_t i = 0; i < step.buckets.size(); i += 3) {
    step.buckets[i] = -7;
    ordered.buckets[i] = INT32_MAX;
  }
  CHECK(step.run(kCudaStep, 1, true) == REFORMER_OK, "%s", step.error);
  CHECK(ordered.run(kCudaStep, 1, true) == REFORMER_OK, "%s", ordered.error);
  CHECK(step.output == ordered.output, "a negative bucket did not sort behind the others");
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 120;
  Random random(31);
  check_drawn(random, cases);
  check_lengths(random);
  check_crowds(random);
  check_room(random);
  check_unfit_rows(random);
  check_refusals(random);
  check_many_rows(random);
  check_negative_buckets(random);
  return FINISH_TEST();
}
