// LSHBuckets on CUDA: checks the call and enqueues it. It needs no workspace.
#include <limits>

#include "kernels/common/sizes.h"
#include "kernels/common/validation.h"
#include "kernels/cuda/hash/hash.h"
#include "kernels/cuda/operator_call.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

constexpr char kOp[] = "LSHBuckets";

// The call without its tensors.
template <typename T>
HashArguments<T> plan_launch(const reformer_lsh_buckets_params& params, const HashSizes& sizes) {
  HashArguments<T> arguments;
  arguments.batch = sizes.batch;
  arguments.length = sizes.length;
  arguments.heads = sizes.heads;
  arguments.head_size = sizes.head_size;
  arguments.rounds = static_cast<int32_t>(sizes.rounds);
  arguments.rotation_size = static_cast<int32_t>(sizes.rotation_size);
  arguments.masked_bucket = sizes.masked_bucket;
  // Without factors the rotations' columns are one.
  arguments.factors.count = params.num_factors > 0 ? params.num_factors : 1;
  arguments.factors.half_sizes[0] = arguments.rotation_size;
  for (int32_t i = 0; i < params.num_factors; ++i) {
    arguments.factors.half_sizes[i] = params.num_buckets[i] / 2;
  }
  return arguments;
}

template <typename T>
reformer_status run_hash(const reformer_lsh_buckets_params& params, const HashSizes& sizes) {
  HashArguments<T> arguments = plan_launch<T>(params, sizes);
  arguments.query_key = view_global<const T>(params.query_key);
  arguments.rotations = view_global<const float>(params.rotations);
  arguments.mask = view_global<const int32_t>(params.attention_mask);
  arguments.buckets = view_global<int32_t>(params.buckets);
  arguments.vector_rows = has_vector_rows(arguments.query_key, sizes.head_size);
  return report_launch(kOp, params.execution, launch_hash(arguments, params.execution.stream));
}

reformer_status check_hash(const reformer_lsh_buckets_params* params, Extent extent,
                           HashSizes* sizes) {
  if (const auto status = check_lsh_buckets(params, extent, sizes)) return status;
  const reformer_execution& execution = params->execution;
  // The kernel counts the bytes from one element of a head to the next in an int32.
  constexpr int64_t kMaxColumns = std::numeric_limits<int32_t>::max() / int64_t{sizeof(float)};
  const int64_t columns = multiply_sizes({sizes->rounds, sizes->rotation_size});
  if (columns > kMaxColumns) {
    return report(execution, kOp, REFORMER_ERROR_TOO_LARGE,
                  "rotations have %lld columns a head, expected at most %lld: hash fewer rounds",
                  static_cast<long long>(columns), static_cast<long long>(kMaxColumns));
  }
  return check_device_limits(kOp, execution, sizes->heads, sizes->head_size);
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_lsh_buckets_workspace(const reformer_lsh_buckets_params* params,
                                                    uint64_t* size) noexcept {
  using namespace reformer::cuda;
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::HashSizes sizes;
  const auto status = check_hash(params, reformer::Extent::kShapes, &sizes);
  if (status == REFORMER_OK) *size = 0;
  return status;
}

reformer_status reformer_cuda_lsh_buckets(const reformer_lsh_buckets_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::HashSizes sizes;
  const auto status = check_hash(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK || sizes.empty) return status;
  return reformer::dispatch_dtype<float16, bfloat16>(params->query_key.dtype, [&](auto element) {
    return run_hash<decltype(element)>(*params, sizes);
  });
}
