// ResidualNorm and FinalNorm on CUDA: checks the call and enqueues; they need no workspace.
#include "kernels/common/validation.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/operator_call.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

template <typename T>
reformer_status run_norm(const reformer_residual_norm_params& params, const NormSizes& sizes) {
  NormArguments<T> arguments;
  arguments.other_stream = view_global<const float>(params.other_stream);
  arguments.stream = view_global<const float>(params.stream);
  arguments.update = view_global<const T>(params.update);
  arguments.scale = view_global<const float>(params.scale);
  arguments.bias = view_global<const float>(params.bias);
  arguments.stream_out = view_global<float>(params.stream_out);
  arguments.normed = view_global<T>(params.normed);
  arguments.rows = sizes.rows;
  arguments.size = static_cast<int32_t>(sizes.size);
  arguments.width = static_cast<int32_t>(sizes.width);
  arguments.epsilon = params.epsilon;
  arguments.vector_rows = has_vector_rows(arguments.stream, sizes.size) &&
                          has_vector_rows(arguments.update, sizes.size) &&
                          is_vector_aligned(arguments.scale) && is_vector_aligned(arguments.bias) &&
                          has_vector_rows(arguments.stream_out, sizes.size) &&
                          has_vector_rows(arguments.normed, sizes.size);
  return report_launch(sizes.op, params.execution, launch_norm(arguments, params.execution.stream));
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_residual_norm_workspace(const reformer_residual_norm_params* params,
                                                      uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::NormSizes sizes;
  const auto status = reformer::check_residual_norm(params, reformer::Extent::kShapes, &sizes);
  if (status == REFORMER_OK) *size = 0;
  return status;
}

reformer_status reformer_cuda_residual_norm(const reformer_residual_norm_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::NormSizes sizes;
  const auto status = reformer::check_residual_norm(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK || sizes.rows == 0) return status;
  return reformer::dispatch_dtype<float16, bfloat16>(params->update.dtype, [&](auto element) {
    return run_norm<decltype(element)>(*params, sizes);
  });
}
