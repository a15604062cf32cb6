// Attention calls and their references, for the emulated device.
#pragma once

#include <string>
#include <vector>

#include "draw.h"
#include "operands.h"

namespace reformer::test {

struct Shape {
  int64_t batch, length, heads, head_size, rounds, chunk_length, before, after;
  int32_t highest_bucket;
};

// A call of that shape, padded to whole chunks, with a random mask.
Attention fill_attention(Random& random, const Shape& shape, int32_t dtype, bool lsh, bool causal);

// What a call's error may be: the weights' and the rounds' rounding to the element type.
double attention_tolerance(const Attention& call);

class AttentionCase {
 public:
  explicit AttentionCase(const Attention& call);

  // Runs the call with a thread order that `seed` determines: the error relative to max(1, |x|),
  // beyond the rounding of the result itself.
  double measure(uint32_t seed) const;
  bool holds(uint32_t seed) const { return measure(seed) <= attention_tolerance(call_); }

 private:
  Attention call_;
  std::vector<float> expected_;
};

// CHECKs one run of a call.
void check_attention(const Attention& call, uint32_t seed, const std::string& label);

}  // namespace reformer::test
