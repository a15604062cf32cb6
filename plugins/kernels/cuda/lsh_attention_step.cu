// LSHAttentionStep on CUDA: prompts by LSHAttention's launches, steps by one of their own.
#include <algorithm>

#include "kernels/common/validation.h"
#include "kernels/cuda/operator_call.h"
#include "kernels/cuda/step/call.h"
#include "kernels/cuda/step/step.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

using Params = reformer_lsh_attention_step_params;

constexpr char kOp[] = "LSHAttentionStep";

struct StepWorkspace {
  Global<float> partial;      // of steps, [B, H, R, D]
  Global<float> lse;          // of steps, [B, H, R]
  void* mask = nullptr;       // of prompts, int32 [Q], nowhere 0
  void* buckets = nullptr;    // of a prompt, int32 [H, R, Q]
  void* attention = nullptr;  // of a prompt's whole operator
  uint64_t attention_size = 0;
};

// The whole operator for a row's `length` tokens, without what the workspace has.
reformer_lsh_attention_params describe_prompt(const Params& params, int64_t row, int64_t length) {
  reformer_lsh_attention_params prompt{};
  prompt.struct_size = sizeof(prompt);
  prompt.abi_version = REFORMER_ABI_VERSION;
  prompt.num_heads = params.num_heads;
  prompt.key_norm_epsilon = params.key_norm_epsilon;
  prompt.self_logit = params.self_logit;
  prompt.dense_threshold = params.dense_threshold;
  prompt.chunking = params.chunking;
  prompt.query_key = view_prompt(params.query_key, row, length);
  prompt.value = view_prompt(params.value, row, length);
  prompt.output = view_prompt(params.output, row, length);
  prompt.buckets = params.new_buckets;
  prompt.buckets.dims[0] = 1;
  prompt.buckets.dims[3] = length;
  prompt.attention_mask = {nullptr, REFORMER_INT32, 2, {1, length}};
  prompt.execution = params.execution;
  return prompt;
}

reformer_status layout_workspace(const Params& params, const StepSizes& sizes, DeviceArena* arena,
                                 StepWorkspace* workspace) {
  if (sizes.rounds > 1) {
    workspace->partial =
        arena->allocate<float>({sizes.batch, sizes.heads, sizes.rounds, sizes.head_size});
    workspace->lse = arena->allocate<float>({sizes.batch, sizes.heads, sizes.rounds});
  }
  if (sizes.length == 1) return REFORMER_OK;
  // Of the longest prompt there may be: a shorter one needs no more.
  const auto prompt = describe_prompt(params, 0, sizes.length);
  const auto status = reformer_cuda_lsh_attention_workspace(&prompt, &workspace->attention_size);
  if (status != REFORMER_OK) return status;
  constexpr int64_t kSize = sizeof(int32_t);
  workspace->mask = arena->reserve(sizes.length * kSize);
  workspace->buckets =
      arena->reserve(multiply_sizes({sizes.heads, sizes.rounds, sizes.length, kSize}));
  workspace->attention = arena->reserve(static_cast<int64_t>(workspace->attention_size));
  return REFORMER_OK;
}

reformer_status attend_prompt(const Params& params, const StepWorkspace& workspace, int64_t row,
                              int64_t length) {
  void* stream = params.execution.stream;
  constexpr int64_t kSize = sizeof(int32_t);
  const int64_t lines = params.new_buckets.dims[1] * params.new_buckets.dims[2];
  const int64_t pitch = params.new_buckets.dims[3] * kSize;
  const char* buckets = static_cast<const char*>(params.new_buckets.data) + row * lines * pitch;
  auto status = fill_bytes(workspace.mask, 1, length * kSize, stream);
  if (status == REFORMER_OK) {
    status = copy_lines(workspace.buckets, length * kSize, buckets, pitch, length * kSize, lines,
                        stream);
  }
  if (status != REFORMER_OK) return report_launch(kOp, params.execution, status);
  reformer_lsh_attention_params prompt = describe_prompt(params, row, length);
  prompt.buckets.data = workspace.buckets;
  prompt.attention_mask.data = workspace.mask;
  prompt.execution.workspace = workspace.attention;
  prompt.execution.workspace_size = workspace.attention_size;
  return reformer_cuda_lsh_attention(&prompt);
}

template <typename T>
reformer_status launch_steps(const Params& params, const StepSizes& sizes,
                             const StepWorkspace& workspace) {
  StepArguments<T> arguments = describe_step<T>(params, sizes, true);
  arguments.query = arguments.key = view_global<const T>(params.query_key);
  arguments.value = view_global<const T>(params.value);
  arguments.new_buckets = view_global<const int32_t>(params.new_buckets);
  arguments.keys = view_global<T>(params.present_query_key);
  arguments.values = view_global<T>(params.present_value);
  arguments.buckets = view_global<int32_t>(params.present_buckets);
  arguments.partial = workspace.partial;
  arguments.lse = workspace.lse;
  arguments.key_norm_epsilon = params.key_norm_epsilon;
  arguments.dense_threshold =
      static_cast<uint32_t>(std::min<int64_t>(params.dense_threshold, UINT32_MAX));
  find_vector_rows(&arguments);
  return launch_step(arguments, params.execution.stream);
}

reformer_status run_lsh(const Params& params, const StepSizes& sizes) {
  const int64_t width = sizes.heads * sizes.head_size * bytes_per_element(params.query_key.dtype);
  const int64_t lines = sizes.heads * sizes.rounds;
  const auto cache = [&](const reformer_tensor& past, const reformer_tensor& present,
                         const reformer_tensor& fresh, int64_t row_lines, int64_t bytes) {
    return StepCache{past,      present,        fresh,        sizes.batch,
                     row_lines, sizes.capacity, sizes.length, bytes};
  };
  const StepCache caches[] = {
      cache(params.past_query_key, params.present_query_key, params.query_key, 1, width),
      cache(params.past_value, params.present_value, params.value, 1, width),
      cache(params.past_buckets, params.present_buckets, params.new_buckets, lines,
            sizeof(int32_t))};
  StepWorkspace workspace;
  if (!sizes.empty) {
    DeviceArena arena(params.execution.workspace);
    if (const auto status = layout_workspace(params, sizes, &arena, &workspace)) return status;
    if (const auto status = arena.check(kOp, params.execution)) return status;
  }
  return run_step(
      describe_call(kOp, params, sizes, false), caches,
      [&](int64_t row, int64_t length) { return attend_prompt(params, workspace, row, length); },
      [&] {
        return dispatch_dtype<float16, bfloat16>(params.query_key.dtype, [&](auto element) {
          return launch_steps<decltype(element)>(params, sizes, workspace);
        });
      });
}

reformer_status check_step(const Params* params, Extent extent, StepSizes* sizes) {
  if (const auto status = check_lsh_attention_step(params, extent, sizes)) return status;
  return check_device_limits(kOp, params->execution, sizes->heads, sizes->head_size);
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_lsh_attention_step_workspace(
    const reformer_lsh_attention_step_params* params, uint64_t* size) noexcept {
  using namespace reformer::cuda;
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::StepSizes sizes;
  if (const auto status = check_step(params, reformer::Extent::kShapes, &sizes)) return status;
  *size = 0;
  if (sizes.empty) return REFORMER_OK;
  DeviceArena arena(nullptr);
  StepWorkspace workspace;
  if (const auto status = layout_workspace(*params, sizes, &arena, &workspace)) return status;
  return arena.measure(kOp, params->execution, size);
}

reformer_status reformer_cuda_lsh_attention_step(
    const reformer_lsh_attention_step_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::StepSizes sizes;
  if (const auto status = check_step(params, reformer::Extent::kCall, &sizes)) return status;
  return run_lsh(*params, sizes);
}
