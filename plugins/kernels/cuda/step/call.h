// What the hosts of both step operators do: read the lengths back where there may be prompts, copy
// and fill caches, describe a prompt's row as a call of the whole operator.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/tensor_checks.h"
#include "kernels/common/validation.h"
#include "kernels/cuda/operator_call.h"
#include "kernels/cuda/step/step.h"
#include "reformer_kernels.h"

namespace reformer::cuda {

// What the hosts of both operators have of a call.
struct StepCall {
  const char* op;
  const reformer_execution& execution;
  const StepSizes& sizes;
  const reformer_tensor& lengths;
  const reformer_tensor& new_lengths;
  const reformer_tensor& output;
  int64_t most_tokens;  // of a row with its new ones
};

template <typename Params>
StepCall describe_call(const char* op, const Params& params, const StepSizes& sizes, bool ring) {
  return {op,
          params.execution,
          sizes,
          params.lengths,
          params.new_lengths,
          params.output,
          most_step_tokens(params.chunking, sizes, ring)};
}

// The lengths on the host, as many rows at once as fit on its stack.
class StepLengths {
 public:
  explicit StepLengths(const StepCall& call) : call_(call) {}

  // visit(row, held, fresh) for every row, until it returns another status than OK.
  template <typename Visit>
  reformer_status visit(const Visit& visit) {
    for (int64_t row = 0; row < call_.sizes.batch; ++row) {
      if (const auto status = read_row(row)) return status;
      if (const auto status = visit(row, held_[row - first_], fresh_[row - first_])) return status;
    }
    return REFORMER_OK;
  }

 private:
  static constexpr int64_t kRows = 512;

  reformer_status read_row(int64_t row) {
    if (first_ >= 0 && row >= first_ && row < first_ + kRows) return REFORMER_OK;
    first_ = row / kRows * kRows;
    auto status = read_rows(call_.lengths, held_);
    if (status == REFORMER_OK) status = read_rows(call_.new_lengths, fresh_);
    if (status == REFORMER_OK) return status;
    return report(call_.execution, call_.op, status,
                  "the lengths of more than one new token could not be read back: expected a "
                  "working GPU, and a stream that is not being captured");
  }
  reformer_status read_rows(const reformer_tensor& tensor, int32_t* rows) const {
    const int64_t count = std::min(kRows, call_.sizes.batch - first_);
    return read_back(rows, static_cast<const int32_t*>(tensor.data) + first_,
                     count * static_cast<int64_t>(sizeof(int32_t)), call_.execution.stream);
  }

  const StepCall& call_;
  int64_t first_ = -1;  // row of those held
  int32_t held_[kRows];
  int32_t fresh_[kRows];
};

// A cache, and where its new tokens come from.
struct StepCache {
  const reformer_tensor& past;
  const reformer_tensor& present;
  const reformer_tensor& fresh;
  int64_t batch;
  int64_t lines;     // of a row of the batch: 1, or H * R of buckets
  int64_t capacity;  // P
  int64_t tokens;    // Q
  int64_t width;     // bytes of a line's token
};

// All of the past, unless the present is the same memory.
inline reformer_status copy_past(const StepCache& cache, void* stream) {
  if (cache.past.data == cache.present.data) return REFORMER_OK;
  const int64_t bytes = cache.batch * cache.lines * cache.capacity * cache.width;
  return copy_lines(cache.present.data, bytes, cache.past.data, bytes, bytes, 1, stream);
}

// A prompt's tokens: of one longer than a ring the last ones.
inline reformer_status store_prompt(const StepCache& cache, int64_t row, int64_t fresh,
                                    void* stream) {
  const int64_t present_pitch = cache.capacity * cache.width;
  const int64_t fresh_pitch = cache.tokens * cache.width;
  char* present = static_cast<char*>(cache.present.data) + row * cache.lines * present_pitch;
  const char* source = static_cast<const char*>(cache.fresh.data) + row * cache.lines * fresh_pitch;
  for (int64_t i = std::max<int64_t>(0, fresh - cache.capacity); i < fresh;) {
    const int64_t slot = i % cache.capacity;
    const int64_t count = std::min(fresh - i, cache.capacity - slot);
    const auto status =
        copy_lines(present + slot * cache.width, present_pitch, source + i * cache.width,
                   fresh_pitch, count * cache.width, cache.lines, stream);
    if (status != REFORMER_OK) return status;
    i += count;
  }
  return REFORMER_OK;
}

// The first `length` tokens of a row of T [B, Q, H*D], as a batch of one.
inline reformer_tensor view_prompt(const reformer_tensor& tensor, int64_t row, int64_t length) {
  reformer_tensor view = tensor;
  view.dims[0] = 1;
  view.dims[1] = length;
  if (view.data != nullptr) {
    const int64_t row_elements = tensor.dims[1] * tensor.dims[2];
    view.data =
        static_cast<char*>(view.data) + row * row_elements * bytes_per_element(tensor.dtype);
  }
  return view;
}

// What both operators' parameters have.
template <typename T, typename Params>
StepArguments<T> describe_step(const Params& params, const StepSizes& sizes, bool is_lsh) {
  StepArguments<T> arguments;
  arguments.lengths = view_global<const int32_t>(params.lengths);
  arguments.new_lengths = view_global<const int32_t>(params.new_lengths);
  arguments.output = view_global<T>(params.output);
  arguments.batch = sizes.batch;
  arguments.tokens = sizes.length;
  arguments.heads = sizes.heads;
  arguments.head_size = sizes.head_size;
  arguments.rounds = sizes.rounds;
  arguments.capacity = sizes.capacity;
  arguments.most_tokens = most_step_tokens(params.chunking, sizes, !is_lsh);
  arguments.chunk_length = static_cast<uint32_t>(params.chunking.chunk_length);
  arguments.before = static_cast<uint32_t>(params.chunking.num_chunks_before);
  arguments.padding_multiple = static_cast<uint32_t>(params.chunking.padding_multiple);
  arguments.padding_threshold = static_cast<uint32_t>(params.chunking.padding_threshold);
  arguments.self_logit = params.self_logit;
  arguments.is_lsh = is_lsh;
  return arguments;
}

template <typename T>
void find_vector_rows(StepArguments<T>* arguments) {
  const int64_t size = arguments->head_size;
  arguments->vector_rows =
      has_vector_rows(arguments->query, size) && has_vector_rows(arguments->key, size) &&
      has_vector_rows(arguments->value, size) && has_vector_rows(arguments->keys, size) &&
      has_vector_rows(arguments->values, size);
}

// Refuses, before anything is written, what the rows' lengths are not. Says whether any row steps.
inline reformer_status check_lengths(const StepCall& call, StepLengths& lengths, bool* steps) {
  return lengths.visit([&](int64_t row, int64_t held, int64_t fresh) {
    *steps = *steps || fresh == 1;
    return check_step_row(call.op, call.execution, call.sizes, call.most_tokens, row, held, fresh);
  });
}

inline reformer_status clear_output(const StepCall& call) {
  const reformer_tensor& output = call.output;
  const int64_t elements = output.dims[0] * output.dims[1] * output.dims[2];
  return fill_bytes(output.data, 0, elements * bytes_per_element(output.dtype),
                    call.execution.stream);
}

// A call of either operator on its caches: attend_prompt(row, length) enqueues the whole operator
// for a row, launch_steps() the steps of all rows.
template <size_t kCaches, typename AttendPrompt, typename LaunchSteps>
reformer_status run_step(const StepCall& call, const StepCache (&caches)[kCaches],
                         const AttendPrompt& attend_prompt, const LaunchSteps& launch_steps) {
  const auto worded = [&](reformer_status status) {
    return report_launch(call.op, call.execution, status);
  };
  const bool may_prompt = call.sizes.length > 1;
  bool steps = call.sizes.length == 1;
  StepLengths lengths(call);
  if (may_prompt) {
    if (const auto status = check_lengths(call, lengths, &steps)) return status;
    if (const auto status = worded(clear_output(call))) return status;
    const auto status = lengths.visit([&](int64_t row, int64_t /*held*/, int64_t fresh) {
      return fresh > 1 ? attend_prompt(row, fresh) : REFORMER_OK;
    });
    if (status != REFORMER_OK) return status;
  }
  for (const StepCache& cache : caches) {
    if (const auto status = worded(copy_past(cache, call.execution.stream))) return status;
    if (!may_prompt) continue;
    const auto status = lengths.visit([&](int64_t row, int64_t /*held*/, int64_t fresh) {
      if (fresh < 2) return REFORMER_OK;
      return worded(store_prompt(cache, row, fresh, call.execution.stream));
    });
    if (status != REFORMER_OK) return status;
  }
  return steps ? worded(launch_steps()) : REFORMER_OK;
}

}  // namespace reformer::cuda
