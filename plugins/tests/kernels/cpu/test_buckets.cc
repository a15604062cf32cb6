// LSHBuckets and the sort, against their references.
#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "check.h"
#include "compare.h"
#include "draw.h"
#include "kernels/cpu/sort.h"
#include "reference.h"
#include "targets.h"

namespace reformer::test {
namespace {

void check_hash(const Hash& call) {
  int32_t all = 1;
  for (const int32_t factor : call.all_factors()) all *= factor;
  const std::vector<int32_t> got = run_hash(call, 1);
  CHECK(run_hash(call, 3) == got, "buckets differ between 1 and 3 workers");
  for_each_bucket(call, [&](int64_t b, int64_t h, int64_t r, int64_t l, size_t index) {
    if (call.mask[static_cast<size_t>(b * call.length + l)] == 0) {
      CHECK(got[index] == all, "masked token has bucket %d, expected %d", got[index], all);
      return;
    }
    const double regret = measure_regret(call, rotate_reference(call, b, h, r, l), got[index]);
    CHECK(regret < 1e-4, "bucket %d is %g from the best", got[index], regret);
  });
}

// Small integers: sums are exact, ties are common, and every bucket is determined.
void check_ties(Random& random) {
  Hash call = draw_hash(random);
  call.dtype = REFORMER_FLOAT32;
  for (float& x : call.query_key) x = static_cast<float>(draw_int(random, -1, 1));
  for (float& x : call.rotations) x = static_cast<float>(draw_int(random, -1, 1));
  const std::vector<int32_t> got = run_hash(call, 1);
  for_each_bucket(call, [&](int64_t b, int64_t h, int64_t r, int64_t l, size_t index) {
    const int32_t expected = bucket_reference(call, b, h, r, l);
    CHECK(got[index] == expected, "bucket %d, expected %d", got[index], expected);
  });
}

void check_sort(Random& random) {
  const int64_t length = draw_int(random, 1, 3000);
  const int64_t padded = length + draw_int(random, 0, 70);
  const int64_t highest = draw_from(random, {0, 3, 4095, 4096, 1 << 24, INT32_MAX});
  std::vector<int32_t> buckets(static_cast<size_t>(length));
  for (int32_t& bucket : buckets) bucket = static_cast<int32_t>(draw_int(random, 0, highest));
  std::vector<int32_t> expected(static_cast<size_t>(padded));
  std::iota(expected.begin(), expected.end(), 0);
  std::stable_sort(expected.begin(), expected.begin() + length, [&](int32_t a, int32_t b) {
    return buckets[static_cast<size_t>(a)] < buckets[static_cast<size_t>(b)];
  });
  std::vector<int32_t> order(static_cast<size_t>(padded));
  std::vector<int32_t> spare(static_cast<size_t>(length));
  std::vector<int32_t> counters(kSortDigits);
  CHECK(sort_positions(buckets.data(), length, padded, order.data(), spare.data(), counters.data()),
        "buckets refused");
  CHECK(order == expected, "length %lld, buckets up to %lld", static_cast<long long>(length),
        static_cast<long long>(highest));
  const int64_t chunk_length = draw_int(random, 1, 300);
  for (int64_t start = 0; start < length; start += chunk_length) {
    std::sort(expected.begin() + start, expected.begin() + std::min(start + chunk_length, length));
  }
  order_chunks(length, chunk_length, order.data(), spare.data());
  CHECK(order == expected, "length %lld, chunks of %lld", static_cast<long long>(length),
        static_cast<long long>(chunk_length));
  buckets[static_cast<size_t>(draw_int(random, 0, length - 1))] = -1;
  CHECK(
      !sort_positions(buckets.data(), length, padded, order.data(), spare.data(), counters.data()),
      "a negative bucket was accepted");
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 60;
  Random random(2);
  for (int i = 0; i < cases; ++i) check_sort(random);
  for (const auto target : runnable_targets()) {
    reformer::set_cpu_target(target);
    for (int i = 0; i < cases; ++i) check_hash(draw_hash(random));
    for (int i = 0; i < cases; ++i) check_ties(random);
  }
  return FINISH_TEST();
}
