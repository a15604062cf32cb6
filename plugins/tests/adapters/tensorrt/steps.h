// Calls of the steps' plugins: a batch of prompts, steps and rows that rest, on caches of unlike
// lengths, and what the contract makes of them.
#pragma once

#include <cstdint>
#include <vector>

#include "driver.h"
#include "step_call.h"

namespace reformer::test {

struct StepCall {
  // Random operands for `node`; caches of LSHAttentionStep have room for `capacity` tokens.
  StepCall(Random& random, const Node& node, const StepRows& rows, int64_t capacity);

  std::vector<const void*> inputs() const;  // in the operator's order
  // The caches that outputs 1 and so on become, bit for bit.
  std::vector<std::vector<char>> presents() const;
  // [B, Q, H*D] of the written-down reference; 0 behind a row's new tokens.
  std::vector<float> output() const;

  const Attention whole;
  const Step step;
  const Shapes shapes;
};

// Every type and node, several shapes one after another on one context, on caches of their own and
// in place.
void check_steps(Random& random);

}  // namespace reformer::test
