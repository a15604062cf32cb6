// LSHAttention and LocalAttention on the emulated device, whole through the C interface, against
// the written-down reference.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "attention_cases.h"
#include "check.h"
#include "control.h"
#include "cuda_backend.h"
#include "draw.h"

namespace reformer::test {
namespace {

constexpr int32_t kTypes[] = {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16};

// Multiplications of one product: what the emulation spends its time on.
int64_t count_work(const Attention& call) {
  const reformer_chunking& chunking = call.chunking;
  const int64_t window =
      (chunking.num_chunks_before + 1 + chunking.num_chunks_after) * chunking.chunk_length;
  const bool dense = call.lsh && call.length <= call.most_dense();
  const int64_t rounds = call.lsh && !dense ? call.rounds : 1;
  return call.batch * call.heads * rounds * call.length *
         std::max<int64_t>(dense ? call.length : window, 64) *
         std::max<int64_t>(call.head_size, 16);
}

constexpr int64_t kMostWork = 8'000'000;

Attention draw_affordable(Random& random, int64_t most_work = kMostWork) {
  for (;;) {
    Attention call = draw_attention(random);
    if (count_work(call) > most_work) continue;
    // One in four is not aligned to 16 bytes.
    if (draw_int(random, 0, 3) == 0) call.offset = draw_int(random, 1, 3);
    return call;
  }
}

void check_drawn(Random& random, int cases, int64_t most_work) {
  for (int i = 0; i < cases; ++i) {
    const Attention call = draw_affordable(random, most_work);
    const uint32_t seed = static_cast<uint32_t>(2 * i + 1);
    check_attention(call, seed, "case " + std::to_string(i));
    if (i % 8 != 0) continue;
    cuda::emulation::set_seed(seed);
    const std::vector<float> got = run_attention(call, 1, kCudaBackend);
    cuda::emulation::set_seed(seed + 1);
    CHECK(run_attention(call, 1, kCudaBackend) == got, "case %d differs in another thread order",
          i);
  }
}

// Sizes that random draws hardly reach.
void check_shapes() {
  Random random(7);
  const Shape shapes[] = {
      {1, 300, 1, 64, 2, 64, 1, 0, 40},          // the usual one, with virtual padding
      {1, 150, 1, 256, 2, 20, 1, 1, 9},          // the largest head
      {1, 100, 1, 200, 1, 32, 1, 0, 9},          // a head between two sizes
      {1, 1100, 1, 8, 1, 512, 1, 0, 9},          // long chunks
      {1, 400, 1, 32, 1, 130, 1, 1, 9},          // chunks of three query tiles, the last one short
      {1, 2 * 2048 + 77, 1, 4, 2, 4, 1, 0, 60},  // several tiles of the sort
      {1, 2500, 1, 4, 1, 4, 1, 0, INT32_MAX},    // and several passes
      {2, 1, 2, 16, 3, 4, 1, 1, 3},              // one token
  };
  int index = 0;
  for (const Shape& shape : shapes) {
    for (const int32_t dtype : kTypes) {
      const bool causal = index % 2 == 0;
      const std::string label = "shape " + std::to_string(index / 3);
      check_attention(fill_attention(random, shape, dtype, true, causal), 100 + index, label);
      if (shape.length < 2000) {
        check_attention(fill_attention(random, shape, dtype, false, causal), 200 + index, label);
      }
      ++index;
    }
  }
}

// A dense block of many chunks' length, and chunks without some of their neighbours, in every type
// and tile size.
void check_rules() {
  Random random(8);
  for (const int64_t head_size : {16, 64, 128, 256}) {
    for (const int32_t dtype : kTypes) {
      Attention dense = fill_attention(random, {1, 210, 1, head_size, 2, 16, 1, 0, 9}, dtype, true,
                                       head_size != 64);
      dense.dense_threshold = 1000;
      dense.self_logit = -5e4f;
      check_attention(dense, 400, "dense");
      Attention ends = fill_attention(random, {1, 90, 1, head_size, 1, 24, 2, 1, 9}, dtype, false,
                                      head_size == 64);
      ends.wraps = false;
      ends.self_logit = 0.5f;
      check_attention(ends, 401, "ends");
      // Rows that see nothing: what does not exist has no share in their average.
      ends.self_logit.reset();
      std::fill(ends.mask.begin(), ends.mask.end(), 0);
      check_attention(ends, 402, "masked ends");
    }
  }
}

// Every head size's tiles where there are neither asynchronous copies nor matrix steps but
// float16's: there, products by shuffles take the emulation thirty times as long.
void check_turing(Random& random, int cases) {
  cuda::emulation::emulate_turing(true);
  for (const int64_t head_size : {8, 24, 64, 100, 250}) {
    for (const int32_t dtype : kTypes) {
      const bool lsh = head_size != 24;
      const Shape shape = {1, 70, 1, head_size, lsh ? 2 : 1, 32, 1, 0, 9};
      check_attention(fill_attention(random, shape, dtype, lsh, true), 300, "Turing");
    }
  }
  check_drawn(random, cases, kMostWork / 16);
  cuda::emulation::emulate_turing(false);
}

// NaN and infinity give some answer, without touching memory that is not the call's.
void check_not_finite(Random& random, int cases) {
  for (int i = 0; i < cases; ++i) {
    Attention call = draw_affordable(random);
    call.dtype = REFORMER_FLOAT32;
    for (size_t j = 0; j < call.query.size(); j += 7) {
      call.query[j] = j % 2 == 0 ? std::nanf("") : -HUGE_VALF;
    }
    run_attention(call, 1, kCudaBackend);
  }
}

// Device code cannot refuse a negative bucket; it sorts behind the others.
void check_negative_buckets(Random& random) {
  Attention call =
      fill_attention(random, {1, 40, 1, 8, 2, 8, 1, 0, 5}, REFORMER_FLOAT32, true, false);
  Attention ordered = call;
  for (size_t i = 0; i < call.buckets.size(); i += 3) {
    call.buckets[i] = -7;
    ordered.buckets[i] = INT32_MAX;
  }
  CHECK(run_attention(call, 1, kCudaBackend) == run_attention(ordered, 1, kCudaBackend),
        "a negative bucket did not sort behind the others");
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  Random random(1);
  check_drawn(random, cases, kMostWork);
  check_turing(random, cases / 5);
  check_shapes();
  check_rules();
  check_not_finite(random, cases / 10);
  check_negative_buckets(random);
  return FINISH_TEST();
}
