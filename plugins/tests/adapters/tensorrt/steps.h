// Calls of the steps' plugins: a batch of prompts, steps and rows that rest, on caches of unlike
// lengths, and what the contract makes of them.
#pragma once

#include <cstdint>
#include <vector>

#include "driver.h"

namespace reformer::test {

// How many tokens each row holds, and how many new ones it gets.
struct Row {
  int32_t held;
  int32_t fresh;
};

struct StepCall {
  Shapes shapes;
  std::vector<Row> rows;
  std::vector<std::vector<char>> inputs;    // as the operator takes them
  std::vector<std::vector<char>> presents;  // the caches afterwards, bit for bit
  std::vector<float> output;                // the written-down reference's, 0 behind new tokens
};

// Random operands for `node` on rows of `length` new tokens; caches hold garbage behind their rows.
StepCall draw_step_call(Random& random, const Node& node, const std::vector<Row>& rows,
                        int64_t length, int64_t capacity);

// Runs the call on caches of their own and in place, and CHECKs all outputs; the largest error.
double check_step_call(Context& context, const Node& node, const StepCall& call, double tolerance);

// Every type and node, several shapes one after another on one context.
void check_steps(Random& random);

}  // namespace reformer::test
