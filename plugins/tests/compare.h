// How far results are from their references.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "operands.h"

namespace reformer::test {

// Largest error relative to max(1, |expected|), beyond what rounding to the element type makes.
double measure_error(const Attention& call, const std::vector<float>& got,
                     const std::vector<float>& expected);

// How far below the best candidate the chosen one is, in the worst factor. rotated [S].
double measure_regret(const Hash& call, const std::vector<double>& rotated, int32_t bucket);

// visit(batch, head, round, token, index) for every bucket.
template <typename Visit>
void for_each_bucket(const Hash& call, const Visit& visit) {
  size_t index = 0;
  for (int64_t b = 0; b < call.batch; ++b) {
    for (int64_t h = 0; h < call.heads; ++h) {
      for (int64_t r = 0; r < call.rounds; ++r) {
        for (int64_t l = 0; l < call.length; ++l) visit(b, h, r, l, index++);
      }
    }
  }
}

}  // namespace reformer::test
