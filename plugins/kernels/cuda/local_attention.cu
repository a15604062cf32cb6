// LocalAttention on CUDA: checks the call and enqueues; it needs no workspace.
#include <cmath>

#include "kernels/common/validation.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/base2.h"
#include "kernels/cuda/operator_call.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

constexpr char kOp[] = "LocalAttention";

template <typename T>
reformer_status run_local(const reformer_local_attention_params& params,
                          const AttentionSizes& sizes) {
  AttentionArguments<T> arguments = describe_attention<T>(sizes, params.self_logit);
  arguments.query = view_global<const T>(params.query);
  arguments.key = view_global<const T>(params.key);
  arguments.value = view_global<const T>(params.value);
  arguments.mask = view_global<const int32_t>(params.attention_mask);
  arguments.output = view_global<T>(params.output);
  arguments.identity_order = true;
  arguments.direct = true;
  arguments.local_scale = kLog2E / std::sqrt(static_cast<float>(sizes.head_size));
  arguments.vector_rows = has_vector_rows(arguments.query, sizes.head_size) &&
                          has_vector_rows(arguments.key, sizes.head_size) &&
                          has_vector_rows(arguments.value, sizes.head_size) &&
                          has_vector_rows(arguments.output, sizes.head_size);
  return report_launch(kOp, params.execution, launch_attention(arguments, params.execution.stream));
}

reformer_status check_local(const reformer_local_attention_params* params, Extent extent,
                            AttentionSizes* sizes) {
  if (const auto status = check_local_attention(params, extent, sizes)) return status;
  return check_device_limits(kOp, params->execution, sizes->heads, sizes->head_size);
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_local_attention_workspace(
    const reformer_local_attention_params* params, uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::AttentionSizes sizes;
  const auto status = reformer::cuda::check_local(params, reformer::Extent::kShapes, &sizes);
  if (status == REFORMER_OK) *size = 0;
  return status;
}

reformer_status reformer_cuda_local_attention(
    const reformer_local_attention_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::AttentionSizes sizes;
  const auto status = check_local(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK || sizes.empty) return status;
  return reformer::dispatch_dtype<float16, bfloat16>(params->query.dtype, [&](auto element) {
    return run_local<decltype(element)>(*params, sizes);
  });
}
