// LSHAttentionStep and LocalAttentionStep on the CPU: the caches take the new tokens, then prompts
// are attended as a whole and steps one (batch, head) at a time.
#include <algorithm>
#include <cstring>

#include "kernels/common/attention_checks.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/step.h"
#include "kernels/cpu/step_cache.h"
#include "reformer_kernels.h"

namespace reformer {
namespace {

// Numbers that are worth another thread.
constexpr int64_t kLeastWork = int64_t{1} << 14;

// Pairs that one range has at the most, each of which overlaps with the next.
constexpr int64_t kMostPairs = 8;

struct StepCall {
  const char* op;
  StepJob job;
  const void* new_keys;
  const void* new_values;
  const int32_t* new_buckets;  // [B, H, R, Q]; null for local attention
  StepCache caches[3];
  size_t num_caches;
};

// The prompts' attention, with mask and lengths of one row.
AttendJob describe_prompt(const StepCall& call, int64_t row, int64_t length) {
  const StepJob& step = call.job;
  const int64_t row_bytes =
      step.sizes.length * step.sizes.heads * step.sizes.head_size * bytes_per_element(step.dtype);
  const auto at_row = [&](const void* tensor) {
    return tensor == nullptr ? nullptr : static_cast<const char*>(tensor) + row * row_bytes;
  };
  AttendJob job;
  job.sizes = row_sizes(step, length);
  job.dtype = step.dtype;
  job.query = at_row(step.query);
  job.key = at_row(call.new_keys);
  job.value = at_row(call.new_values);
  job.output = const_cast<char*>(at_row(step.output));
  job.shared_query_key = step.shared_query_key;
  job.key_norm_epsilon = step.key_norm_epsilon;
  job.self_logit = step.self_logit;
  return job;
}

struct Workspace {
  int32_t* ones = nullptr;      // [Q], the mask of prompts
  char* scratch = nullptr;      // the workers', one behind the other
  size_t scratch_bytes = 0;     // of one worker
  void* attention = nullptr;    // of a prompt
  uint64_t attention_size = 0;  // bytes
  int64_t most_pairs = 0;       // of a prompt, in flight
  size_t size = 0;              // bytes to ask for
};

// Bytes for any prompt: the longest one, or the longest that is dense, whose window may be wider.
uint64_t measure_prompts(const StepCall& call, int64_t most_pairs, int32_t num_workers) {
  const auto measure = [&](int64_t length) {
    return measure_attention(describe_prompt(call, 0, length), most_pairs, num_workers);
  };
  const reformer_chunking& chunking = call.job.chunking;
  const int64_t multiple = chunking.padding_multiple;
  const int64_t dense =
      std::max(call.job.dense_threshold / multiple * multiple, chunking.padding_threshold);
  const int64_t longest = call.job.sizes.length;
  return std::max(measure(longest), measure(std::clamp<int64_t>(dense, 1, longest)));
}

Workspace layout_workspace(const StepCall& call, int32_t num_workers, void* block) {
  const StepSizes& sizes = call.job.sizes;
  Workspace workspace;
  WorkspaceArena step(nullptr);
  layout_step_scratch(call.job, step);
  WorkspaceArena arena(block);
  workspace.scratch_bytes = step.used();
  workspace.scratch =
      arena.allocate<char>(static_cast<size_t>(num_workers) * workspace.scratch_bytes);
  if (sizes.length > 1) {
    const AttendJob prompt = describe_prompt(call, 0, sizes.length);
    workspace.most_pairs = choose_group(prompt, num_workers);
    workspace.attention_size = measure_prompts(call, workspace.most_pairs, num_workers);
    workspace.ones = arena.allocate<int32_t>(static_cast<size_t>(sizes.length));
    workspace.attention = arena.allocate<char>(static_cast<size_t>(workspace.attention_size));
  }
  workspace.size = arena.size();
  return workspace;
}

// Before anything is written. Buckets that are held were checked when they were new.
reformer_status check_values(const StepCall& call, const reformer_execution& execution) {
  const StepSizes& sizes = call.job.sizes;
  const int64_t most_tokens =
      most_step_tokens(call.job.chunking, sizes, call.new_buckets == nullptr);
  for (int64_t row = 0; row < sizes.batch; ++row) {
    const auto status = check_step_row(call.op, execution, sizes, most_tokens, row,
                                       call.job.lengths[row], call.job.new_lengths[row]);
    if (status != REFORMER_OK) return status;
    if (call.new_buckets == nullptr) continue;
    const int64_t lines = sizes.heads * sizes.rounds;
    for (int64_t i = row * lines; i < (row + 1) * lines; ++i) {
      const int32_t* line = call.new_buckets + i * sizes.length;
      const int32_t* end = line + call.job.new_lengths[row];
      if (std::any_of(line, end, [](int32_t bucket) { return bucket < 0; })) {
        return report(execution, call.op, REFORMER_ERROR_BUCKETS,
                      "new_buckets has a negative value, expected bucket numbers >= 0");
      }
    }
  }
  return REFORMER_OK;
}

// Zeros behind each row's new tokens.
void clear_rest(const StepCall& call) {
  const StepSizes& sizes = call.job.sizes;
  const int64_t token = sizes.heads * sizes.head_size * bytes_per_element(call.job.dtype);  // bytes
  for (int64_t row = 0; row < sizes.batch; ++row) {
    const int64_t fresh = call.job.new_lengths[row];
    char* rest = static_cast<char*>(call.job.output) + (row * sizes.length + fresh) * token;
    std::memset(rest, 0, static_cast<size_t>((sizes.length - fresh) * token));
  }
}

reformer_status attend_prompts(const StepCall& call, const reformer_execution& execution,
                               const Workspace& workspace) {
  const StepSizes& sizes = call.job.sizes;
  if (workspace.ones == nullptr) return REFORMER_OK;
  std::fill(workspace.ones, workspace.ones + sizes.length, 1);
  reformer_execution inner = execution;
  inner.workspace = workspace.attention;
  inner.workspace_size = workspace.attention_size;
  for (int64_t row = 0; row < sizes.batch; ++row) {
    if (call.job.new_lengths[row] < 2) continue;
    AttendJob job = describe_prompt(call, row, call.job.new_lengths[row]);
    job.mask = workspace.ones;
    BucketRows buckets{nullptr, sizes.length};
    if (call.new_buckets != nullptr) {
      buckets.data = call.new_buckets + row * sizes.heads * sizes.rounds * sizes.length;
    }
    const auto status = run_attention(call.op, job, workspace.most_pairs, inner, buckets);
    if (status != REFORMER_OK) return status;
  }
  return REFORMER_OK;
}

void attend_steps(const StepCall& call, const reformer_execution& execution,
                  const Workspace& workspace) {
  const StepSizes& sizes = call.job.sizes;
  const int64_t most = *std::max_element(call.job.lengths, call.job.lengths + sizes.batch);
  const int64_t keys = std::min(most + 1, count_step_keys(call.job)) * sizes.head_size;
  const int64_t counted = call.new_buckets == nullptr ? 0 : most;
  const int64_t work = sizes.rounds * (keys + counted);
  const StepFunction step = select_step();
  const int64_t pairs = sizes.batch * sizes.heads;
  const int64_t share =
      std::clamp<int64_t>(pairs / (int64_t{4} * execution.num_workers), 1, kMostPairs);
  parallel_ranges(execution, pairs, std::max(share, kLeastWork / work),
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    WorkspaceArena arena(workspace.scratch +
                                         static_cast<size_t>(worker) * workspace.scratch_bytes);
                    step(call.job, layout_step_scratch(call.job, arena), begin, end);
                  });
}

reformer_status run_step(const StepCall& call, const reformer_execution& execution) {
  const StepSizes& sizes = call.job.sizes;
  if (sizes.batch == 0) return REFORMER_OK;
  const Workspace workspace = layout_workspace(call, execution.num_workers, execution.workspace);
  const uint64_t needed = sizes.empty ? 0 : workspace.size;
  if (const auto status = check_workspace(call.op, execution, needed)) return status;
  if (const auto status = check_values(call, execution)) return status;
  for (size_t i = 0; i < call.num_caches; ++i) {
    copy_past(call.job, execution, call.caches[i]);
    store_new(call.job, call.caches[i]);
  }
  if (sizes.empty) return REFORMER_OK;
  clear_rest(call);
  if (const auto status = attend_prompts(call, execution, workspace)) return status;
  attend_steps(call, execution, workspace);
  return REFORMER_OK;
}

// What both operators' parameters have.
template <typename Params>
StepCall describe_call(const char* op, const Params& params, const StepSizes& sizes) {
  StepCall call{};
  call.op = op;
  call.job.sizes = sizes;
  call.job.chunking = params.chunking;
  call.job.self_logit = params.self_logit;
  call.job.dtype = params.output.dtype;
  call.job.lengths = static_cast<const int32_t*>(params.lengths.data);
  call.job.new_lengths = static_cast<const int32_t*>(params.new_lengths.data);
  call.job.output = params.output.data;
  return call;
}

StepCache describe_cache(const StepSizes& sizes, const reformer_tensor& past,
                         const reformer_tensor& present, const reformer_tensor& fresh) {
  const int64_t width = sizes.heads * sizes.head_size * bytes_per_element(past.dtype);
  return {past.data, present.data, fresh.data, sizes.batch, width};
}

StepCall describe(const reformer_lsh_attention_step_params& params, const StepSizes& sizes) {
  StepCall call = describe_call("LSHAttentionStep", params, sizes);
  call.job.key_norm_epsilon = params.key_norm_epsilon;
  call.job.dense_threshold = params.dense_threshold;
  call.job.shared_query_key = true;
  call.job.query = call.new_keys = params.query_key.data;
  call.new_values = params.value.data;
  call.new_buckets = static_cast<const int32_t*>(params.new_buckets.data);
  call.job.keys = params.present_query_key.data;
  call.job.values = params.present_value.data;
  call.job.buckets = static_cast<const int32_t*>(params.present_buckets.data);
  const int64_t lines = sizes.batch * sizes.heads * sizes.rounds;
  call.caches[0] =
      describe_cache(sizes, params.past_query_key, params.present_query_key, params.query_key);
  call.caches[1] = describe_cache(sizes, params.past_value, params.present_value, params.value);
  call.caches[2] = {params.past_buckets.data, params.present_buckets.data, params.new_buckets.data,
                    lines, sizeof(int32_t)};
  call.num_caches = 3;
  return call;
}

StepCall describe(const reformer_local_attention_step_params& params, const StepSizes& sizes) {
  StepCall call = describe_call("LocalAttentionStep", params, sizes);
  call.job.dense_threshold = params.chunking.chunk_length;
  call.job.wraps = params.wraps != 0;
  call.job.query = params.query.data;
  call.new_keys = params.key.data;
  call.new_values = params.value.data;
  call.job.keys = params.present_key.data;
  call.job.values = params.present_value.data;
  call.caches[0] = describe_cache(sizes, params.past_key, params.present_key, params.key);
  call.caches[1] = describe_cache(sizes, params.past_value, params.present_value, params.value);
  call.num_caches = 2;
  return call;
}

template <typename Params>
reformer_status measure(const Params& params, const StepSizes& sizes, uint64_t* size) {
  const int32_t workers = params.execution.num_workers;
  *size = sizes.empty ? 0 : layout_workspace(describe(params, sizes), workers, nullptr).size;
  return REFORMER_OK;
}

}  // namespace
}  // namespace reformer

reformer_status reformer_cpu_lsh_attention_step_workspace(
    const reformer_lsh_attention_step_params* params, uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::StepSizes sizes;
  const auto status = reformer::check_lsh_attention_step(params, reformer::Extent::kShapes, &sizes);
  return status != REFORMER_OK ? status : reformer::measure(*params, sizes, size);
}

reformer_status reformer_cpu_local_attention_step_workspace(
    const reformer_local_attention_step_params* params, uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::StepSizes sizes;
  const auto status =
      reformer::check_local_attention_step(params, reformer::Extent::kShapes, &sizes);
  return status != REFORMER_OK ? status : reformer::measure(*params, sizes, size);
}

reformer_status reformer_cpu_lsh_attention_step(
    const reformer_lsh_attention_step_params* params) noexcept {
  reformer::StepSizes sizes;
  const auto status = reformer::check_lsh_attention_step(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK) return status;
  return reformer::run_step(reformer::describe(*params, sizes), params->execution);
}

reformer_status reformer_cpu_local_attention_step(
    const reformer_local_attention_step_params* params) noexcept {
  reformer::StepSizes sizes;
  const auto status = reformer::check_local_attention_step(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK) return status;
  return reformer::run_step(reformer::describe(*params, sizes), params->execution);
}
