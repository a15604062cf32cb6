// The sort's kernels on the emulated device, against std::stable_sort.
#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "check.h"
#include "control.h"
#include "draw.h"
#include "kernel_runs.h"
#include "kernels/common/sizes.h"
#include "kernels/cuda/sort/sort.h"

namespace reformer::test {
namespace {

using cuda::make_global;
using cuda::view;

std::vector<int32_t> sort_on_device(const std::vector<int32_t>& buckets, int64_t segments,
                                    int64_t length) {
  const int64_t tiles = divide_up(length, cuda::kSortTile);
  const auto poisoned = [](int64_t count) {
    return std::vector<int32_t>(static_cast<size_t>(count), -1);
  };
  std::vector<int32_t> order = poisoned(segments * length);
  std::vector<int32_t> spare = poisoned(segments * length);
  std::vector<int32_t> tile_counts = poisoned(segments * tiles * cuda::kSortDigits);
  std::vector<int32_t> digit_starts = poisoned(segments * cuda::kSortDigits);
  std::vector<uint32_t> tile_highest(static_cast<size_t>(segments * tiles), 0xFFFFFFFF);
  std::vector<int32_t> segment_passes = poisoned(segments);
  cuda::SortArguments arguments;
  arguments.buckets = make_global(buckets.data(), segments * length);
  arguments.order = view(order);
  arguments.spare = view(spare);
  arguments.tile_counts = view(tile_counts);
  arguments.digit_starts = view(digit_starts);
  arguments.tile_highest = view(tile_highest);
  arguments.segment_passes = view(segment_passes);
  arguments.segments = segments;
  arguments.length = length;
  arguments.tiles = tiles;
  CHECK(cuda::launch_sort(arguments, nullptr) == REFORMER_OK, "the sort was refused");
  return order;
}

std::vector<int32_t> sort_reference(const std::vector<int32_t>& buckets, int64_t segments,
                                    int64_t length) {
  std::vector<int32_t> all;
  for (int64_t segment = 0; segment < segments; ++segment) {
    const int32_t* row = buckets.data() + segment * length;
    std::vector<int32_t> order(static_cast<size_t>(length));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return static_cast<uint32_t>(row[a]) < static_cast<uint32_t>(row[b]);
    });
    all.insert(all.end(), order.begin(), order.end());
  }
  return all;
}

// Every segment has its own highest bucket, so that some need more passes than others.
void check_sort(Random& random, int64_t length) {
  const int64_t segments = draw_int(random, 1, 4);
  std::vector<int32_t> buckets;
  for (int64_t segment = 0; segment < segments; ++segment) {
    const int64_t highest = draw_from(
        random, {0, 1, 30, cuda::kSortDigits - 1, cuda::kSortDigits, (1 << 22) - 1, INT32_MAX});
    const int64_t lowest = draw_int(random, 0, 9) == 0 ? INT32_MIN : 0;  // pinned nonsense
    for (int64_t i = 0; i < length; ++i) {
      buckets.push_back(static_cast<int32_t>(draw_int(random, lowest, highest)));
    }
  }
  const std::vector<int32_t> expected = sort_reference(buckets, segments, length);
  for (const uint32_t seed : {1u, 2u}) {
    cuda::emulation::set_seed(seed);
    CHECK(sort_on_device(buckets, segments, length) == expected, "%lld segments of %lld positions",
          static_cast<long long>(segments), static_cast<long long>(length));
  }
}

// Long runs of equal buckets, which stability is about, across the borders of warps and tiles.
void check_runs(int64_t length) {
  std::vector<int32_t> buckets;
  for (int64_t i = 0; i < length; ++i) buckets.push_back(static_cast<int32_t>(i / 37 % 3));
  CHECK(sort_on_device(buckets, 1, length) == sort_reference(buckets, 1, length),
        "runs of equal buckets, length %lld", static_cast<long long>(length));
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 30;
  Random random(3);
  const int64_t tile = reformer::cuda::kSortTile;
  for (int i = 0; i < cases; ++i) check_sort(random, draw_int(random, 1, 2 * tile));
  for (const int64_t length : {int64_t{1}, int64_t{31}, int64_t{32}, tile - 1, tile, tile + 1}) {
    check_sort(random, length);
    check_runs(length);
  }
  check_sort(random, 5 * tile + 13);
  return FINISH_TEST();
}
