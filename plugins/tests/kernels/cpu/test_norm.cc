// ResidualNorm and FinalNorm on the CPU, on every instruction set, against double precision.
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "norm_call.h"
#include "targets.h"

namespace reformer::test {
namespace {

void check_norm(const Norm& call) {
  const Normed got = run_norm(call, 1, kCpuNorm);
  const double share = measure_norm(call, got);
  CHECK(share <= 1, "%g of what is allowed (final %d, dtype %d, B %lld, L %lld, N %lld, %s)", share,
        call.is_final, call.dtype, static_cast<long long>(call.batch),
        static_cast<long long>(call.length), static_cast<long long>(call.size), cpu_target_name());
  CHECK(run_norm(call, 3, kCpuNorm) == got, "results differ between 1 and 3 workers");
}

// Rows enough for several threads.
void check_many_rows(Random& random, int32_t dtype) {
  check_norm(fill_norm(random, dtype, 3000, 12, 5.0f, true));
  Norm call = fill_norm(random, dtype, 3000, 24, 5.0f);
  check_norm(call);
  call.in_place = true;
  check_norm(call);
}

// NaN and infinity stay in their rows, and fill them.
void check_not_finite(Random& random, int32_t dtype, bool is_final) {
  constexpr size_t kSize = 37;
  Norm call = fill_norm(random, dtype, 3, kSize, 0.0f, is_final);
  const size_t width = static_cast<size_t>(call.width());
  const Normed clean = run_norm(call, 1, kCpuNorm);
  call.stream[kSize + 5] = std::nanf("");
  call.stream[2 * kSize] = HUGE_VALF;
  const Normed got = run_norm(call, 1, kCpuNorm);
  for (size_t i = 0; i < width; ++i) {
    CHECK(got.normed[i] == clean.normed[i], "a NaN of another row is in element %zu", i);
    if (dtype != REFORMER_FLOAT32) continue;  // decode() is for finite halves
    CHECK(std::isnan(got.normed[width + i]) && std::isnan(got.normed[2 * width + i]),
          "element %zu is a number", i);
  }
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(6);
  for (const auto target : runnable_targets()) {
    reformer::set_cpu_target(target);
    for (int i = 0; i < cases; ++i) check_norm(draw_norm(random));
    for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
      check_many_rows(random, dtype);
      for (const bool is_final : {false, true}) check_not_finite(random, dtype, is_final);
    }
  }
  return FINISH_TEST();
}
