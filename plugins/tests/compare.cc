#include "compare.h"

#include <algorithm>
#include <cmath>

#include "half.h"

namespace reformer::test {

double measure_error(const Attention& call, const std::vector<float>& got,
                     const std::vector<float>& expected) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double wanted = static_cast<double>(expected[i]);
    double error = std::fabs(static_cast<double>(got[i]) - wanted);
    if (call.dtype != REFORMER_FLOAT32) {
      // A correctly rounded result is off by half a step; what is left is arithmetic.
      error = std::max(0.0, error - 0.5 * spacing(call.dtype, wanted) * 1.01);
    }
    worst = std::max(worst, std::isnan(error) ? 1e9 : error / std::max(1.0, std::fabs(wanted)));
  }
  return worst;
}

double measure_regret(const Hash& call, const std::vector<double>& rotated, int32_t bucket) {
  if (bucket < 0) return 1e9;
  double worst = 0;
  size_t start = 0;
  for (const int32_t factor : call.all_factors()) {
    const size_t half = static_cast<size_t>(factor / 2);
    const size_t choice = static_cast<size_t>(bucket % factor);
    bucket /= factor;
    double best = 0;
    for (size_t s = 0; s < half; ++s) best = std::max(best, std::fabs(rotated[start + s]));
    const double chosen = choice < half ? rotated[start + choice] : -rotated[start + choice - half];
    worst = std::max(worst, best - chosen);
    start += half;
  }
  return bucket == 0 ? worst : 1e9;
}

}  // namespace reformer::test
