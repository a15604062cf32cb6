// ResidualNorm and FinalNorm on the emulated device, against double precision.
#include <cstdlib>

#include "check.h"
#include "norm_cases.h"

namespace reformer::test {
namespace {

void check_norm(const Norm& call, uint32_t seed) {
  const double share = measure_on_device(call, seed);
  CHECK(share <= 1,
        "%g of what is allowed (final %d, dtype %d, B %lld, L %lld, N %lld, offset %lld)", share,
        call.is_final, call.dtype, static_cast<long long>(call.batch),
        static_cast<long long>(call.length), static_cast<long long>(call.size),
        static_cast<long long>(call.offset));
}

void check_same_bits(const Norm& call) {
  cuda::emulation::set_seed(11);
  const Normed got = run_norm(call, 1, kCudaNorm);
  cuda::emulation::set_seed(12);
  CHECK(run_norm(call, 1, kCudaNorm) == got, "results differ in another thread order");
}

// The largest row of every way to share one among threads, and the smallest of the next.
void check_sizes(Random& random, int32_t dtype) {
  for (const int64_t size : {256, 264, 512, 520, 1024, 1032, 2048, 2056, 8192, 8200}) {
    Norm call = fill_norm(random, dtype, 2, size, -30.0f);
    check_norm(call, 1);
    call.in_place = true;
    check_norm(call, 2);
    call.offset = 1;
    check_norm(call, 3);
    check_norm(fill_norm(random, dtype, 2, size / 2, -30.0f, true), 6);
  }
  check_norm(fill_norm(random, dtype, 1, 8193, 4.0f), 4);
  check_norm(fill_norm(random, dtype, 1, 1025, 4.0f), 5);
  check_norm(fill_norm(random, dtype, 1, 4097, 4.0f, true), 7);
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 60;
  Random random(8);
  for (int i = 0; i < cases; ++i) {
    const Norm call = draw_norm(random);
    check_norm(call, static_cast<uint32_t>(i));
    if (i % 4 == 0) check_same_bits(call);
  }
  for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
    check_sizes(random, dtype);
  }
  return FINISH_TEST();
}
