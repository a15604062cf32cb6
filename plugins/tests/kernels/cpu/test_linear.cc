// Linear on the CPU, on every instruction set and on emulated tiles, against double precision.
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "kernels/cpu/linear/products.h"
#include "linear_call.h"
#include "targets.h"
#include "tile_emulation.h"

namespace reformer::test {
namespace {

void check_linear(const LinearCall& call) {
  const std::vector<float> got = run_linear(call, 1);
  const double share = measure_linear(call, got);
  CHECK(share <= 1,
        "%g of what is allowed (dtype %d, weight %d, M %lld, K %lld, N %lld, activation %d, %s)",
        share, call.dtype, call.weight_dtype, static_cast<long long>(call.rows),
        static_cast<long long>(call.size), static_cast<long long>(call.outputs), call.activation,
        select_products(call.weight_dtype)->name);
  CHECK(run_linear(call, 3) == got, "results differ between 1 and 3 workers");
}

// Each of some rows alone, to the bit.
void check_rows_alone(Random& random, int32_t dtype, int32_t weight_dtype) {
  LinearCall call = fill_linear(random, dtype, weight_dtype, 131, 200, 75);
  call.activation = REFORMER_GELU;
  const std::vector<float> all = run_linear(call, 3);
  for (int64_t row = 0; row < call.rows; row += 7) {
    const std::vector<float> one = run_linear(take_row(call, row), 1);
    const auto first = all.begin() + row * call.outputs;
    CHECK(std::equal(one.begin(), one.end(), first), "row %lld is another one alone",
          static_cast<long long>(row));
  }
}

// The largest sums there can be, in rows as long as they may get.
void check_largest_sums() {
  constexpr int64_t kSize = 132104;
  LinearCall call;
  call.size = kSize;
  call.outputs = 2;
  call.x.assign(kSize, 1.0f);
  call.weight.assign(kSize, 127.0f);
  call.weight.insert(call.weight.end(), kSize, -127.0f);
  call.scales = {1.0f, 1.0f};
  call.bias = {0.0f, 0.0f};
  check_linear(call);
}

// An infinity or a NaN makes its row NaN, and no other.
void check_not_finite(Random& random, int32_t dtype) {
  LinearCall call = fill_linear(random, dtype, REFORMER_INT8, 3, 37, 40);
  const std::vector<float> clean = run_linear(call, 1);
  call.x[37 + 5] = std::nanf("");
  call.x[2 * 37 + 36] = -HUGE_VALF;
  call.activation = REFORMER_NO_ACTIVATION;
  const std::vector<float> got = run_linear(call, 1);
  for (size_t n = 0; n < 40; ++n) {
    CHECK(got[n] == clean[n], "a NaN of another row is in element %zu", n);
    if (dtype != REFORMER_FLOAT32) continue;  // decode() is for finite halves
    CHECK(std::isnan(got[40 + n]) && std::isnan(got[80 + n]), "element %zu is a number", n);
  }
}

void check_products(Random& random, int cases) {
  for (const int32_t weight_dtype : {REFORMER_INT8, REFORMER_BFLOAT16, REFORMER_FLOAT32}) {
    if (select_products(weight_dtype) == nullptr) continue;
    for (int i = 0; i < cases; ++i) check_linear(draw_linear(random, weight_dtype));
    for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
      if (weight_dtype == REFORMER_FLOAT32 && dtype != REFORMER_FLOAT32) continue;
      check_rows_alone(random, dtype, weight_dtype);
      if (weight_dtype == REFORMER_INT8) check_not_finite(random, dtype);
    }
  }
  check_largest_sums();
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(11);
  for (const auto target : runnable_targets()) {
    reformer::set_cpu_target(target);
    reformer::set_products(&kEmulatedInt8Tiles, &kEmulatedBFloat16Tiles);
    check_products(random, cases / 4);
  }
  using Target = reformer::ProductsTarget;
  for (const auto target : {Target::kAvx2, Target::kAvxVnni, Target::kAvx512, Target::kAmx}) {
    if (!reformer::set_products_target(target)) {
      std::printf("not on this processor: products target %d\n", static_cast<int>(target));
      continue;
    }
    check_products(random, cases);
  }
  return FINISH_TEST();
}
