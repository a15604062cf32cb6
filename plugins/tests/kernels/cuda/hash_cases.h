// Hashing calls and what their buckets must be, for the emulated device.
#pragma once

#include <cstdint>
#include <vector>

#include "draw.h"
#include "operands.h"

namespace reformer::test {

// A call of one head with a visible mask.
Hash fill_hash(Random& random, int32_t dtype, int64_t length, int64_t head_size, int64_t rounds,
               const std::vector<int32_t>& factors);

class HashCase {
 public:
  explicit HashCase(const Hash& call);

  // Runs the call with a thread order that `seed` determines: how far the worst bucket is from the
  // best one; infinity when a masked token has not the last bucket.
  double measure(uint32_t seed) const;
  // What float32 sums may be off by: a choice within it is as good as the best.
  double tolerance() const;
  bool holds(uint32_t seed) const { return measure(seed) <= tolerance(); }

 private:
  Hash call_;
  int32_t masked_bucket_;
  std::vector<std::vector<double>> rotated_;  // of every bucket, [S]
};

// CHECKs one run of a call.
void check_hash(const Hash& call, uint32_t seed);

}  // namespace reformer::test
