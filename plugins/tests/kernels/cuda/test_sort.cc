// The sort's kernels on the emulated device, against std::stable_sort.
#include <cstdlib>

#include "check.h"
#include "draw.h"
#include "kernels/cuda/sort/sort.h"
#include "sort_cases.h"

namespace reformer::test {
namespace {

constexpr int64_t kTile = cuda::kSortTile;
constexpr int64_t kLongestBlock = cuda::kBlockSortLength;

// Both ways where a block can hold the segments.
void check_sort(const SortCase& call, const char* what) {
  for (const uint32_t seed : {1u, 2u}) {
    CHECK(holds(call, SortPath::kLong, seed), "in tiles: %lld segments of %lld positions, %s",
          static_cast<long long>(call.segments), static_cast<long long>(call.length), what);
    if (call.length > kLongestBlock) continue;
    CHECK(holds(call, SortPath::kBlock, seed), "in a block: %lld segments of %lld positions, %s",
          static_cast<long long>(call.segments), static_cast<long long>(call.length), what);
  }
}

// Every segment has its own highest bucket, so that some need more passes than others.
void check_random(Random& random, int64_t segments, int64_t length) {
  SortCase call{segments, length, {}};
  for (int64_t segment = 0; segment < segments; ++segment) {
    const int64_t highest =
        draw_from(random, {0, 1, 30, 511, 512, 1023, 1024, 2047, 2048, (1 << 20) - 1, 1 << 20,
                           (1 << 22) - 1, 1 << 22, INT32_MAX});
    const int64_t lowest = draw_int(random, 0, 9) == 0 ? INT32_MIN : 0;  // pinned nonsense
    for (int64_t i = 0; i < length; ++i) {
      call.buckets.push_back(static_cast<int32_t>(draw_int(random, lowest, highest)));
    }
  }
  check_sort(call, "random buckets");
}

// buckets[i] = choose(i).
template <typename Choose>
void check_pattern(int64_t length, const char* what, const Choose& choose) {
  SortCase call{1, length, {}};
  for (int64_t i = 0; i < length; ++i) call.buckets.push_back(static_cast<int32_t>(choose(i)));
  check_sort(call, what);
}

// What stability is about, across the borders of lanes, steps, warps and tiles; and digits that
// agree in one pass and differ in another.
void check_patterns(int64_t length) {
  check_pattern(length, "one bucket", [](int64_t) { return 0; });
  check_pattern(length, "one high bucket", [](int64_t) { return INT32_MAX; });
  check_pattern(length, "runs of equal buckets", [](int64_t i) { return i / 37 % 3; });
  check_pattern(length, "falling buckets", [&](int64_t i) { return length - 1 - i; });
  check_pattern(length, "high bits alone", [&](int64_t i) { return (length - i) % 5 << 28; });
  check_pattern(length, "negative buckets", [](int64_t i) { return i % 7 - 3; });
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 30;
  Random random(3);
  for (int i = 0; i < cases; ++i) {
    check_random(random, draw_int(random, 1, 4), draw_int(random, 1, 2 * kTile));
  }
  for (const int64_t length :
       {int64_t{1}, int64_t{2}, int64_t{31}, int64_t{32}, int64_t{33}, int64_t{511}, int64_t{512},
        int64_t{513}, kTile - 1, kTile, kTile + 1}) {
    check_random(random, 2, length);
    check_patterns(length);
  }
  check_random(random, 2, 5 * kTile + 13);
  for (const int64_t length : {kLongestBlock - 1, kLongestBlock, kLongestBlock + 1}) {
    check_random(random, 1, length);
    check_pattern(length, "falling buckets", [&](int64_t i) { return length - 1 - i; });
    check_pattern(length, "one bucket", [](int64_t) { return 5; });
  }
  return FINISH_TEST();
}
