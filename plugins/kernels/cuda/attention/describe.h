// The part of an attention launch's arguments that both attention operators fill alike.
#pragma once

#include <cmath>

#include "kernels/common/validation.h"
#include "kernels/cuda/attention/arguments.h"

namespace reformer::cuda {

constexpr float kLog2E = 1.44269504f;  // log2(e)

template <typename T>
AttentionArguments<T> describe_attention(const AttentionSizes& sizes) {
  AttentionArguments<T> arguments;
  arguments.batch = sizes.batch;
  arguments.length = sizes.length;
  arguments.heads = sizes.heads;
  arguments.head_size = sizes.head_size;
  arguments.rounds = sizes.rounds;
  arguments.padded_length = sizes.padded_length;
  arguments.chunk_length = sizes.chunk_length;
  arguments.before = sizes.before;
  arguments.after = sizes.after;
  arguments.causal = sizes.causal;
  return arguments;
}

}  // namespace reformer::cuda
