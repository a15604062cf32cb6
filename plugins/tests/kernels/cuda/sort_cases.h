// Calls of the CUDA sort with the order that they must give.
#pragma once

#include <cstdint>
#include <vector>

namespace reformer::test {

// Rows of buckets, of which each is sorted by itself.
struct SortCase {
  int64_t segments = 1;
  int64_t length = 1;
  std::vector<int32_t> buckets;  // [segments, length]
};

// The ways that the kernels sort: short segments have both.
enum class SortPath { kBlock, kLong };

// Whether the device's order is std::stable_sort's, by buckets as unsigned numbers.
bool holds(const SortCase& call, SortPath path, uint32_t seed);

}  // namespace reformer::test
