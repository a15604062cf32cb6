// LocalAttentionStep on CUDA: prompts by LocalAttention's launch, steps by one of their own.
#include "kernels/common/validation.h"
#include "kernels/cuda/operator_call.h"
#include "kernels/cuda/step/call.h"
#include "kernels/cuda/step/step.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

using Params = reformer_local_attention_step_params;

constexpr char kOp[] = "LocalAttentionStep";

// The mask of prompts, int32 [Q], nowhere 0; null where there are none.
void* layout_mask(const StepSizes& sizes, DeviceArena* arena) {
  if (sizes.empty || sizes.length == 1) return nullptr;
  return arena->reserve(sizes.length * static_cast<int64_t>(sizeof(int32_t)));
}

reformer_status attend_prompt(const Params& params, void* mask, int64_t row, int64_t length) {
  const auto status =
      fill_bytes(mask, 1, length * static_cast<int64_t>(sizeof(int32_t)), params.execution.stream);
  if (status != REFORMER_OK) return report_launch(kOp, params.execution, status);
  reformer_local_attention_params prompt{};
  prompt.struct_size = sizeof(prompt);
  prompt.abi_version = REFORMER_ABI_VERSION;
  prompt.num_heads = params.num_heads;
  prompt.chunking = params.chunking;
  prompt.self_logit = params.self_logit;
  prompt.wraps = params.wraps;
  prompt.query = view_prompt(params.query, row, length);
  prompt.key = view_prompt(params.key, row, length);
  prompt.value = view_prompt(params.value, row, length);
  prompt.output = view_prompt(params.output, row, length);
  prompt.attention_mask = {mask, REFORMER_INT32, 2, {1, length}};
  prompt.execution = params.execution;
  return reformer_cuda_local_attention(&prompt);
}

template <typename T>
reformer_status launch_steps(const Params& params, const StepSizes& sizes) {
  StepArguments<T> arguments = describe_step<T>(params, sizes, false);
  arguments.query = view_global<const T>(params.query);
  arguments.key = view_global<const T>(params.key);
  arguments.value = view_global<const T>(params.value);
  arguments.keys = view_global<T>(params.present_key);
  arguments.values = view_global<T>(params.present_value);
  arguments.dense_threshold = arguments.chunk_length;
  arguments.wraps = params.wraps != 0;
  find_vector_rows(&arguments);
  return launch_step(arguments, params.execution.stream);
}

reformer_status run_local(const Params& params, const StepSizes& sizes) {
  const int64_t width = sizes.heads * sizes.head_size * bytes_per_element(params.query.dtype);
  const auto cache = [&](const reformer_tensor& past, const reformer_tensor& present,
                         const reformer_tensor& fresh) {
    return StepCache{past, present, fresh, sizes.batch, 1, sizes.capacity, sizes.length, width};
  };
  const StepCache caches[] = {cache(params.past_key, params.present_key, params.key),
                              cache(params.past_value, params.present_value, params.value)};
  DeviceArena arena(params.execution.workspace);
  void* mask = layout_mask(sizes, &arena);
  if (const auto status = arena.check(kOp, params.execution)) return status;
  return run_step(
      describe_call(kOp, params, sizes, true), caches,
      [&](int64_t row, int64_t length) { return attend_prompt(params, mask, row, length); },
      [&] {
        return dispatch_dtype<float16, bfloat16>(params.query.dtype, [&](auto element) {
          return launch_steps<decltype(element)>(params, sizes);
        });
      });
}

reformer_status check_step(const Params* params, Extent extent, StepSizes* sizes) {
  if (const auto status = check_local_attention_step(params, extent, sizes)) return status;
  return check_device_limits(kOp, params->execution, sizes->heads, sizes->head_size);
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_local_attention_step_workspace(
    const reformer_local_attention_step_params* params, uint64_t* size) noexcept {
  using namespace reformer::cuda;
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::StepSizes sizes;
  if (const auto status = check_step(params, reformer::Extent::kShapes, &sizes)) return status;
  DeviceArena arena(nullptr);
  layout_mask(sizes, &arena);
  return arena.measure(kOp, params->execution, size);
}

reformer_status reformer_cuda_local_attention_step(
    const reformer_local_attention_step_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::StepSizes sizes;
  if (const auto status = check_step(params, reformer::Extent::kCall, &sizes)) return status;
  return run_local(*params, sizes);
}
