#include "sort_cases.h"

#include <algorithm>
#include <numeric>

#include "check.h"
#include "control.h"
#include "kernel_runs.h"
#include "kernels/common/sizes.h"
#include "kernels/cuda/prepare.h"

namespace reformer::test {
namespace {

using cuda::make_global;
using cuda::view;

std::vector<int32_t> make_poisoned(int64_t count) {
  return std::vector<int32_t>(static_cast<size_t>(count), -1);
}

// As a part of the preparation, whose key scales are those of zeros.
std::vector<int32_t> sort_in_blocks(const SortCase& call) {
  std::vector<int32_t> order = make_poisoned(call.segments * call.length);
  cuda::SortArguments sort;
  sort.buckets =
      make_global<const int32_t>(call.buckets.data(), static_cast<int64_t>(call.buckets.size()));
  sort.order = view(order);
  sort.segments = call.segments;
  sort.length = call.length;
  std::vector<float> query_key(static_cast<size_t>(call.length), 0.0f);
  std::vector<float> scales(query_key.size(), 0.0f);
  std::vector<int32_t> mask(query_key.size(), 1);
  cuda::KeyScaleArguments<float> keys;
  keys.query_key = make_global<const float>(query_key.data(), call.length);
  keys.mask = make_global<const int32_t>(mask.data(), call.length);
  keys.key_scale = view(scales);
  keys.batch = keys.heads = keys.head_size = 1;
  keys.length = call.length;
  keys.epsilon = 1.0f;
  CHECK(cuda::launch_preparation(keys, sort, nullptr) == REFORMER_OK, "the sort was refused");
  return order;
}

std::vector<int32_t> sort_in_tiles(const SortCase& call) {
  const int64_t segments = call.segments, length = call.length;
  const int64_t tiles = divide_up(length, cuda::kSortTile);
  std::vector<int32_t> order = make_poisoned(segments * length);
  std::vector<int32_t> spare = make_poisoned(segments * length);
  std::vector<int32_t> tile_counts = make_poisoned(segments * tiles * cuda::kSortDigits);
  std::vector<int32_t> digit_starts = make_poisoned(segments * cuda::kSortDigits);
  std::vector<uint32_t> tile_highest(static_cast<size_t>(segments * tiles), 0xFFFFFFFF);
  std::vector<int32_t> segment_passes = make_poisoned(segments);
  cuda::SortArguments arguments;
  arguments.buckets = make_global<const int32_t>(call.buckets.data(), segments * length);
  arguments.order = view(order);
  arguments.spare = view(spare);
  arguments.tile_counts = view(tile_counts);
  arguments.digit_starts = view(digit_starts);
  arguments.tile_highest = view(tile_highest);
  arguments.segment_passes = view(segment_passes);
  arguments.segments = segments;
  arguments.length = length;
  arguments.tiles = tiles;
  CHECK(cuda::launch_long_sort(arguments, nullptr) == REFORMER_OK, "the sort was refused");
  return order;
}

std::vector<int32_t> sort_reference(const SortCase& call) {
  std::vector<int32_t> all;
  for (int64_t segment = 0; segment < call.segments; ++segment) {
    const int32_t* row = call.buckets.data() + segment * call.length;
    std::vector<int32_t> order(static_cast<size_t>(call.length));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return static_cast<uint32_t>(row[a]) < static_cast<uint32_t>(row[b]);
    });
    all.insert(all.end(), order.begin(), order.end());
  }
  return all;
}

}  // namespace

bool holds(const SortCase& call, SortPath path, uint32_t seed) {
  cuda::emulation::set_seed(seed);
  const std::vector<int32_t> got =
      path == SortPath::kBlock ? sort_in_blocks(call) : sort_in_tiles(call);
  return got == sort_reference(call);
}

}  // namespace reformer::test
