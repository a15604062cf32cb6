// LSHAttention on CUDA: checks the call, lays out the workspace, enqueues the preparation (key
// scales, sort), the attention of every round and their combination.
#include "kernels/common/validation.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/combine.h"
#include "kernels/cuda/operator_call.h"
#include "kernels/cuda/prepare.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

constexpr char kOp[] = "LSHAttention";

// All launches of a call.
template <typename T>
struct LshAttentionPlan {
  KeyScaleArguments<T> key_scale;
  SortArguments sort;  // no segments: positions stay in their own order
  AttentionArguments<T> attention;
  CombineArguments<T> combine;  // unless attention.direct
};

void layout_sort(SortArguments* sort, DeviceArena* arena) {
  const int64_t segments = sort->segments;
  sort->order = arena->allocate<int32_t>({segments, sort->length});
  if (!sort->is_long()) return;
  sort->tiles = divide_up(sort->length, kSortTile);
  sort->spare = arena->allocate<int32_t>({segments, sort->length});
  sort->tile_counts = arena->allocate<int32_t>({segments, sort->tiles, kSortDigits});
  sort->digit_starts = arena->allocate<int32_t>({segments, kSortDigits});
  sort->tile_highest = arena->allocate<uint32_t>({segments, sort->tiles});
  sort->segment_passes = arena->allocate<int32_t>({segments});
}

template <typename T>
void layout_workspace(LshAttentionPlan<T>* plan, DeviceArena* arena) {
  AttentionArguments<T>& attention = plan->attention;
  const int64_t batch = attention.batch, heads = attention.heads, length = attention.length;
  plan->key_scale.key_scale = arena->allocate<float>({batch, heads, length});
  attention.key_scale = plan->key_scale.key_scale;
  if (!attention.identity_order) {
    layout_sort(&plan->sort, arena);
    attention.order = plan->sort.order;
  }
  if (!attention.direct) {
    attention.partial =
        arena->allocate<T>({batch, attention.rounds, length, heads, attention.head_size});
    attention.lse = arena->allocate<float>({batch, heads, attention.rounds, length});
    plan->combine.partial = attention.partial;
    plan->combine.lse = attention.lse;
  }
}

// The call without its tensors.
template <typename T>
LshAttentionPlan<T> plan_launches(const reformer_lsh_attention_params& params,
                                  const AttentionSizes& sizes, DeviceArena* arena) {
  LshAttentionPlan<T> plan;
  plan.attention = describe_attention<T>(sizes, params.self_logit);
  plan.attention.is_lsh = true;
  plan.attention.identity_order = sizes.dense;
  plan.attention.direct = sizes.rounds == 1;
  plan.key_scale.batch = plan.combine.batch = sizes.batch;
  plan.key_scale.length = plan.combine.length = sizes.length;
  plan.key_scale.heads = plan.combine.heads = sizes.heads;
  plan.key_scale.head_size = plan.combine.head_size = sizes.head_size;
  plan.key_scale.epsilon = params.key_norm_epsilon;
  plan.combine.rounds = sizes.rounds;
  if (!sizes.dense) {
    plan.sort.segments = multiply_sizes({sizes.batch, sizes.heads, sizes.rounds});
    plan.sort.length = sizes.length;
  }
  layout_workspace(&plan, arena);
  return plan;
}

template <typename T>
void bind_tensors(const reformer_lsh_attention_params& params, LshAttentionPlan<T>* plan) {
  AttentionArguments<T>& attention = plan->attention;
  const int64_t head_size = attention.head_size;
  attention.query = attention.key = view_global<const T>(params.query_key);
  attention.value = view_global<const T>(params.value);
  attention.output = view_global<T>(params.output);
  // The workspace's rows start at multiples of 16 bytes wherever the tensors' rows do.
  attention.vector_rows = has_vector_rows(attention.query, head_size) &&
                          has_vector_rows(attention.value, head_size) &&
                          has_vector_rows(attention.output, head_size);
  plan->key_scale.query_key = attention.query;
  plan->key_scale.mask = view_global<const int32_t>(params.attention_mask);
  plan->key_scale.vector_rows = attention.vector_rows;
  plan->sort.buckets = view_global<const int32_t>(params.buckets);
  plan->combine.output = attention.output;
  plan->combine.vector_rows = attention.vector_rows;
}

template <typename T>
reformer_status enqueue(const LshAttentionPlan<T>& plan, void* stream) {
  if (const auto status = launch_preparation(plan.key_scale, plan.sort, stream)) return status;
  if (plan.sort.is_long()) {
    if (const auto status = launch_long_sort(plan.sort, stream)) return status;
  }
  if (const auto status = launch_attention(plan.attention, stream)) return status;
  return plan.attention.direct ? REFORMER_OK : launch_combine(plan.combine, stream);
}

template <typename T>
reformer_status run_lsh(const reformer_lsh_attention_params& params, const AttentionSizes& sizes) {
  DeviceArena arena(params.execution.workspace);
  LshAttentionPlan<T> plan = plan_launches<T>(params, sizes, &arena);
  if (const auto status = arena.check(kOp, params.execution)) return status;
  bind_tensors(params, &plan);
  return report_launch(kOp, params.execution, enqueue(plan, params.execution.stream));
}

reformer_status check_lsh(const reformer_lsh_attention_params* params, Extent extent,
                          AttentionSizes* sizes) {
  if (const auto status = check_lsh_attention(params, extent, sizes)) return status;
  return check_device_limits(kOp, params->execution, sizes->heads, sizes->head_size);
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_lsh_attention_workspace(const reformer_lsh_attention_params* params,
                                                      uint64_t* size) noexcept {
  using namespace reformer::cuda;
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::AttentionSizes sizes;
  const auto status = check_lsh(params, reformer::Extent::kShapes, &sizes);
  if (status != REFORMER_OK) return status;
  *size = 0;
  if (sizes.empty) return REFORMER_OK;
  DeviceArena arena(nullptr);
  reformer::dispatch_dtype<float16, bfloat16>(params->query_key.dtype, [&](auto element) {
    plan_launches<decltype(element)>(*params, sizes, &arena);
  });
  return arena.measure(kOp, params->execution, size);
}

reformer_status reformer_cuda_lsh_attention(const reformer_lsh_attention_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::AttentionSizes sizes;
  const auto status = check_lsh(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK || sizes.empty) return status;
  return reformer::dispatch_dtype<float16, bfloat16>(params->query_key.dtype, [&](auto element) {
    return run_lsh<decltype(element)>(*params, sizes);
  });
}
