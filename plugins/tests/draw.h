// Random operator calls.
#pragma once

#include <random>

#include "operands.h"

namespace reformer::test {

using Random = std::mt19937;

inline int64_t draw_from(Random& random, std::initializer_list<int64_t> values) {
  std::uniform_int_distribution<size_t> index(0, values.size() - 1);
  return *(values.begin() + index(random));
}

inline int64_t draw_int(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// Normal values that T can hold.
std::vector<float> draw_values(Random& random, int32_t dtype, int64_t count, float scale);

// Visible, a masked tail, holes, or nothing visible at all.
std::vector<int32_t> draw_mask(Random& random, int64_t batch, int64_t length);

// Odd sizes, short lengths, virtual padding, one bucket, huge buckets, windows that wrap: all
// occur.
Attention draw_attention(Random& random);
Hash draw_hash(Random& random);

}  // namespace reformer::test
