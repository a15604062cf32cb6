#include "hash_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "compare.h"
#include "control.h"
#include "cuda_backend.h"
#include "reference.h"

namespace reformer::test {
namespace {

double find_largest(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(double{value}));
  return largest;
}

}  // namespace

Hash fill_hash(Random& random, int32_t dtype, int64_t length, int64_t head_size, int64_t rounds,
               const std::vector<int32_t>& factors) {
  Hash call;
  call.dtype = dtype;
  call.length = length;
  call.head_size = head_size;
  call.rounds = rounds;
  call.factors = factors;
  int64_t columns = 0;
  for (const int32_t factor : factors) columns += factor / 2;
  call.query_key = draw_values(random, dtype, length * head_size, 1.0f);
  call.rotations = draw_values(random, REFORMER_FLOAT32, head_size * rounds * columns, 1.0f);
  call.mask.assign(static_cast<size_t>(length), 1);
  return call;
}

HashCase::HashCase(const Hash& call) : call_(call), masked_bucket_(1) {
  for (const int32_t factor : call.all_factors()) masked_bucket_ *= factor;
  for_each_bucket(call, [&](int64_t b, int64_t h, int64_t r, int64_t l, size_t /*index*/) {
    rotated_.push_back(rotate_reference(call, b, h, r, l));
  });
}

double HashCase::measure(uint32_t seed) const {
  cuda::emulation::set_seed(seed);
  const std::vector<int32_t> got = run_hash(call_, 1, kCudaBackend);
  double worst = 0;
  for_each_bucket(call_, [&](int64_t b, int64_t /*h*/, int64_t /*r*/, int64_t l, size_t index) {
    double regret = 0;
    if (call_.mask[static_cast<size_t>(b * call_.length + l)] != 0) {
      regret = measure_regret(call_, rotated_[index], got[index]);
    } else if (got[index] != masked_bucket_) {
      regret = std::numeric_limits<double>::infinity();
    }
    worst = std::max(worst, regret);
  });
  return worst;
}

double HashCase::tolerance() const {
  return find_largest(call_.query_key) * find_largest(call_.rotations) *
         static_cast<double>(call_.head_size) * 0x1p-23;
}

void check_hash(const Hash& call, uint32_t seed) {
  const HashCase hash(call);
  const double regret = hash.measure(seed);
  CHECK(regret <= hash.tolerance(),
        "a bucket is %g from the best, expected at most %g (dtype %d, B %lld, H %lld, L %lld, D "
        "%lld, R %lld)",
        regret, hash.tolerance(), call.dtype, static_cast<long long>(call.batch),
        static_cast<long long>(call.heads), static_cast<long long>(call.length),
        static_cast<long long>(call.head_size), static_cast<long long>(call.rounds));
}

}  // namespace reformer::test
