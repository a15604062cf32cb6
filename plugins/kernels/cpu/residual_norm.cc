// ResidualNorm and FinalNorm on the CPU.
#include <algorithm>

#include "kernels/common/validation.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/parallel.h"
#include "reformer_kernels.h"

namespace reformer {
namespace {

// Elements below which a range of rows is not worth another thread.
constexpr int64_t kLeastElements = int64_t{1} << 14;

void run_norm(const NormJob& job, const reformer_execution& execution) {
  const NormFunction norm = select_norm();
  const int64_t grain = std::max(choose_grain(job.sizes.rows, execution.num_workers),
                                 kLeastElements / job.sizes.width);
  parallel_ranges(execution, job.sizes.rows, grain,
                  [&](int64_t /*worker*/, int64_t begin, int64_t end) { norm(job, begin, end); });
}

}  // namespace
}  // namespace reformer

reformer_status reformer_cpu_residual_norm_workspace(const reformer_residual_norm_params* params,
                                                     uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::NormSizes sizes;
  const auto status = reformer::check_residual_norm(params, reformer::Extent::kShapes, &sizes);
  if (status == REFORMER_OK) *size = 0;
  return status;
}

reformer_status reformer_cpu_residual_norm(const reformer_residual_norm_params* params) noexcept {
  reformer::NormJob job;
  const auto status = reformer::check_residual_norm(params, reformer::Extent::kCall, &job.sizes);
  if (status != REFORMER_OK || job.sizes.rows == 0) return status;
  job.dtype = params->update.dtype;
  job.epsilon = params->epsilon;
  if (params->stream_out.rank == 0) {
    job.other_stream = static_cast<const float*>(params->other_stream.data);
  }
  job.stream = static_cast<const float*>(params->stream.data);
  job.update = params->update.data;
  job.scale = static_cast<const float*>(params->scale.data);
  job.bias = static_cast<const float*>(params->bias.data);
  job.stream_out = static_cast<float*>(params->stream_out.data);
  job.normed = params->normed.data;
  reformer::run_norm(job, params->execution);
  return REFORMER_OK;
}
