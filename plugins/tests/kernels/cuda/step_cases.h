// Step calls and their references, for the emulated device.
#pragma once

#include <string>
#include <vector>

#include "step_call.h"

namespace reformer::test {

extern const StepFunctions kCudaStep;

class StepCase {
 public:
  StepCase(const Attention& whole, const StepRows& rows, int64_t room);

  // Runs the call with a thread order that `seed` determines: the worst row's share of the error
  // that it may have, more than 1 where a cache is not what it should be.
  double measure(uint32_t seed, bool in_place) const;
  bool holds(uint32_t seed) const { return measure(seed, true) <= 1; }

 private:
  Attention whole_;
  StepRows rows_;
  int64_t room_;
  std::vector<std::vector<float>> expected_;  // of each row, [fresh, H*D]
};

// CHECKs a call in place and not, whose outputs must be the same.
void check_step(const Attention& whole, const StepRows& rows, int64_t room, uint32_t seed,
                const std::string& label);

}  // namespace reformer::test
