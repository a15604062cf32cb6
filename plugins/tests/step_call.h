// Calls of the step operators, made of whole sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "draw.h"
#include "operands.h"
#include "reformer_kernels.h"

namespace reformer::test {

// The step operators of one backend.
struct StepFunctions {
  reformer_status (*measure_lsh)(const reformer_lsh_attention_step_params*, uint64_t*);
  reformer_status (*run_lsh)(const reformer_lsh_attention_step_params*);
  reformer_status (*measure_local)(const reformer_local_attention_step_params*, uint64_t*);
  reformer_status (*run_local)(const reformer_local_attention_step_params*);
};
extern const StepFunctions kCpuStep;

// What each row of a call holds, and how many new tokens it gets of its `tokens`.
struct StepRows {
  std::vector<int32_t> held;
  std::vector<int32_t> fresh;
  int64_t tokens = 1;  // Q
};

// Every row of the batch steps to its last token.
StepRows last_tokens(const Attention& whole);

// Row b's sequence is the first held[b] + fresh[b] tokens of the whole one, none of them masked;
// its cache has room for `room` more than the whole, or is a ring.
struct Step {
  Step(const Attention& whole, const StepRows& rows, int64_t room);
  Step(const Step&) = delete;

  // In memory of exactly the size that the call may touch. Without `in_place` the present caches
  // have memory of their own, with it they are the past ones, which then change.
  reformer_status run(const StepFunctions& functions, int32_t workers, bool in_place);

  // Of the last run: [B, Q, H*D].
  std::vector<float> read_output() const;

  using Bytes = std::vector<char>;
  const Attention& whole;
  StepRows rows;
  const int64_t capacity;  // P
  Bytes query, key, value, output, keys, values, present_keys, present_values, workspace;
  std::vector<int32_t> new_buckets, buckets, present_buckets;
  // What the caches become.
  Bytes next_keys, next_values;
  std::vector<int32_t> next_buckets;
  void* stream = nullptr;
  char error[256] = "";

 private:
  void fill_buckets();
};

// What row b gets, [fresh, H*D]: the last rows of the whole operator.
std::vector<float> step_reference(const Step& step, int64_t row);

// Checks that the step is refused with such a status and message, and leaves its caches as they
// were.
void check_refusal(const StepFunctions& functions, reformer_status expected, const char* message,
                   Step& step);

// A call of the whole operator that a step can be.
Attention draw_causal(Random& random);

// Steps, prompts and resting rows of unlike lengths.
StepRows draw_rows(Random& random, const Attention& whole);

}  // namespace reformer::test
