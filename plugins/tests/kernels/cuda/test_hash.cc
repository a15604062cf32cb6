// LSHBuckets on the emulated device.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "check.h"
#include "compare.h"
#include "control.h"
#include "cuda_backend.h"
#include "draw.h"
#include "hash_cases.h"
#include "reference.h"

namespace reformer::test {
namespace {

void check_same_bits(const Hash& call) {
  cuda::emulation::set_seed(11);
  const std::vector<int32_t> got = run_hash(call, 1, kCudaBackend);
  cuda::emulation::set_seed(12);
  CHECK(run_hash(call, 1, kCudaBackend) == got, "buckets differ in another thread order");
}

// Small integers: sums are exact, ties are common, and every bucket is determined.
void check_ties(Hash call) {
  Random random(5);
  for (float& x : call.query_key) x = static_cast<float>(draw_int(random, -1, 1));
  for (float& x : call.rotations) x = static_cast<float>(draw_int(random, -1, 1));
  const std::vector<int32_t> got = run_hash(call, 1, kCudaBackend);
  for_each_bucket(call, [&](int64_t b, int64_t h, int64_t r, int64_t l, size_t index) {
    const int32_t expected = bucket_reference(call, b, h, r, l);
    CHECK(got[index] == expected, "bucket %d, expected %d (dtype %d)", got[index], expected,
          call.dtype);
  });
}

// Rotations of any magnitude hash alike: the kernels' 16-bit parts are scaled.
void check_scales(Random& random, int32_t dtype) {
  Hash call = fill_hash(random, dtype, 40, 64, 2, {10, 6});
  const std::vector<int32_t> expected = run_hash(call, 1, kCudaBackend);
  for (const int exponent : {-100, -20, 20, 100}) {
    Hash scaled = call;
    for (float& x : scaled.rotations) x = std::ldexp(x, exponent);
    CHECK(run_hash(scaled, 1, kCudaBackend) == expected, "rotations times 2^%d (dtype %d)",
          exponent, dtype);
  }
}

// A rotation's bits beyond what one 16-bit part holds decide buckets.
void check_small_margins(Random& random, int32_t dtype) {
  Hash call = fill_hash(random, dtype, 300, 64, 1, {4});
  for (int64_t d = 0; d < call.head_size; ++d) {
    // The second column is the first one but for one unit in 2^21.
    float* row = call.rotations.data() + 2 * d;
    row[0] = std::ldexp(std::nearbyint(std::ldexp(row[0], 10)), -10);
    row[1] = row[0] + std::ldexp(static_cast<float>(draw_int(random, -1, 1)), -20);
  }
  int decided = 0;
  const std::vector<int32_t> got = run_hash(call, 1, kCudaBackend);
  for (int64_t l = 0; l < call.length; ++l) {
    const std::vector<double> rotated = rotate_reference(call, 0, 0, 0, l);
    const double margin = std::fabs(std::fabs(rotated[0]) - std::fabs(rotated[1]));
    if (margin < 4e-6) continue;
    ++decided;
    const int32_t expected = bucket_reference(call, 0, 0, 0, l);
    CHECK(got[static_cast<size_t>(l)] == expected, "bucket %d, expected %d at a margin of %g",
          got[static_cast<size_t>(l)], expected, margin);
  }
  CHECK(decided > 50, "only %d tokens were decided", decided);
}

// Equal columns tie exactly, wherever they lie among a step's columns and among the stages; a zero
// token is in bucket 0, and in none of zeros that pad a factor.
void check_equal_columns(Random& random, int32_t dtype) {
  Hash call = fill_hash(random, dtype, 70, 64, 6, {34, 50, 2});
  const int64_t columns = 17 + 25 + 1;
  for (int64_t row = 0; row < call.head_size * call.rounds; ++row) {
    float* values = call.rotations.data() + row * columns;
    for (int64_t i = 0; i < 17; ++i) values[i] = values[0];
    for (int64_t i = 17; i < 42; ++i) values[i] = values[17 + i % 3];
  }
  std::fill(call.query_key.begin(), call.query_key.begin() + 2 * call.head_size, 0.0f);
  const std::vector<int32_t> got = run_hash(call, 1, kCudaBackend);
  for_each_bucket(call, [&](int64_t, int64_t, int64_t, int64_t l, size_t index) {
    const int32_t bucket = got[index];
    if (l < 2) {
      CHECK(bucket == 0, "a zero token is in bucket %d (dtype %d)", bucket, dtype);
      return;
    }
    CHECK(bucket % 34 == 0 || bucket % 34 == 17, "column %d of equal ones", bucket % 34);
    CHECK(bucket / 34 % 50 % 25 < 3, "column %d of three that repeat", bucket / 34 % 50);
  });
}

// What zeros pad a factor with is never chosen: all real columns give the same negative number.
void check_padding(int32_t dtype) {
  Random random(9);
  Hash call = fill_hash(random, dtype, 20, 24, 3, {2, 18});
  std::fill(call.query_key.begin(), call.query_key.end(), 1.0f);
  std::fill(call.rotations.begin(), call.rotations.end(), -0.25f);
  for (const int32_t bucket : run_hash(call, 1, kCudaBackend)) {
    CHECK(bucket == 1 + 2 * 9, "bucket %d, expected 19 (dtype %d)", bucket, dtype);
  }
}

// The same on a device like Turing, which has neither TF32 nor bfloat16.
void check_turing(Random& random, int32_t dtype) {
  cuda::emulation::emulate_turing(true);
  for (const int64_t head_size : {20, 64, 128, 250}) {
    const Hash call = fill_hash(random, dtype, 140, head_size, 2, {20, 6});
    check_hash(call, 1);
    check_ties(call);
  }
  cuda::emulation::emulate_turing(false);
}

// No bucket is out of range, whatever the tokens hold.
void check_not_finite(Random& random, int32_t dtype) {
  Hash call = fill_hash(random, dtype, 50, 24, 2, {6, 20});
  for (size_t i = 0; i < call.query_key.size(); i += 5) {
    call.query_key[i] = i % 2 == 0 ? std::nanf("") : HUGE_VALF;
  }
  call.rotations[3] = std::nanf("");
  call.rotations[7] = HUGE_VALF;
  for (const int32_t bucket : run_hash(call, 1, kCudaBackend)) {
    CHECK(bucket >= 0 && bucket < 120, "bucket %d, expected 0 to 119", bucket);
  }
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 40;
  Random random(2);
  for (int i = 0; i < cases; ++i) {
    Hash call = draw_hash(random);
    if (draw_int(random, 0, 3) == 0) call.offset = draw_int(random, 1, 3);
    check_hash(call, static_cast<uint32_t>(i));
    if (i % 4 == 0) check_same_bits(call);
    if (i % 2 == 0) check_ties(call);
  }
  for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
    check_hash(fill_hash(random, dtype, 300, 256, 1, {40}), 1);
    check_hash(fill_hash(random, dtype, 20, 40, 2, std::vector<int32_t>(30, 2)), 2);
    check_scales(random, dtype);
    check_small_margins(random, dtype);
    check_not_finite(random, dtype);
    check_equal_columns(random, dtype);
    check_padding(dtype);
    check_turing(random, dtype);
  }
  return FINISH_TEST();
}
