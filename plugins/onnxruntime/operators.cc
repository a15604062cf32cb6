#include "onnxruntime/operators.h"

#include <algorithm>
#include <string>
#include <vector>

namespace reformer::onnxruntime {
namespace {

template <typename Params>
void write_header(const char* op, const Ort::ConstKernelInfo& info, Params* params) {
  params->struct_size = sizeof(Params);
  params->abi_version = REFORMER_ABI_VERSION;
  params->num_heads = read_int32(op, info, "num_heads");
}

// The attention operators' output has the shape and type of their first input.
void copy_shape(Ort::ShapeInferContext& context) {
  Ort::ThrowOnError(context.SetOutputShape(0, context.GetInputShape(0)).release());
}

}  // namespace

LSHBuckets::LSHBuckets(const Ort::ConstKernelInfo& info) {
  write_header(kName, info, &params_);
  const std::vector<int64_t> factors = info.GetAttributes<int64_t>("num_buckets");
  if (factors.size() > REFORMER_MAX_BUCKET_FACTORS) {
    throw Ort::Exception(std::string(kName) + ": num_buckets has " +
                             std::to_string(factors.size()) + " factors, expected at most " +
                             std::to_string(REFORMER_MAX_BUCKET_FACTORS),
                         ORT_INVALID_ARGUMENT);
  }
  params_.num_factors = static_cast<int32_t>(factors.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    // A factor beyond int32 becomes 0, which the kernel refuses.
    const bool fits = factors[i] >= 0 && factors[i] <= INT32_MAX;
    params_.num_buckets[i] = fits ? static_cast<int32_t>(factors[i]) : 0;
  }
}

OrtStatusPtr LSHBuckets::ComputeV2(OrtKernelContext* ort_context) const {
  return catch_errors([&] {
    const Ort::KernelContext context(ort_context);
    reformer_lsh_buckets_params params = params_;
    params.query_key = view_tensor(kName, "query_key", context.GetInput(0));
    params.rotations = view_tensor(kName, "rotations", context.GetInput(1));
    params.attention_mask = view_tensor(kName, "attention_mask", context.GetInput(2));
    params.buckets = {nullptr,
                      REFORMER_INT32,
                      4,
                      {params.query_key.dims[0], params.num_heads, params.rotations.dims[2],
                       params.query_key.dims[1]}};
    run_operator(context, params, params.buckets, reformer_cpu_lsh_buckets_workspace,
                 reformer_cpu_lsh_buckets);
  });
}

void LSHBuckets::infer_shape(Ort::ShapeInferContext& context) {
  const auto query_key = context.GetInputShape(0);
  const auto rotations = context.GetInputShape(1);
  if (query_key.size() != 3 || rotations.size() != 4) return;
  const Ort::ShapeInferContext::Shape buckets = {query_key[0], rotations[0], rotations[2],
                                                 query_key[1]};
  Ort::ThrowOnError(
      context.SetOutputShape(0, buckets, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32).release());
}

LSHAttention::LSHAttention(const Ort::ConstKernelInfo& info) {
  write_header(kName, info, &params_);
  params_.key_norm_epsilon = info.GetAttribute<float>("key_norm_epsilon");
  params_.chunking = read_chunking(kName, info);
}

OrtStatusPtr LSHAttention::ComputeV2(OrtKernelContext* ort_context) const {
  return catch_errors([&] {
    const Ort::KernelContext context(ort_context);
    reformer_lsh_attention_params params = params_;
    params.query_key = view_tensor(kName, "query_key", context.GetInput(0));
    params.value = view_tensor(kName, "value", context.GetInput(1));
    params.buckets = view_tensor(kName, "buckets", context.GetInput(2));
    params.attention_mask = view_tensor(kName, "attention_mask", context.GetInput(3));
    params.output = params.query_key;
    run_operator(context, params, params.output, reformer_cpu_lsh_attention_workspace,
                 reformer_cpu_lsh_attention);
  });
}

void LSHAttention::infer_shape(Ort::ShapeInferContext& context) { copy_shape(context); }

LocalAttention::LocalAttention(const Ort::ConstKernelInfo& info) {
  write_header(kName, info, &params_);
  params_.chunking = read_chunking(kName, info);
}

OrtStatusPtr LocalAttention::ComputeV2(OrtKernelContext* ort_context) const {
  return catch_errors([&] {
    const Ort::KernelContext context(ort_context);
    reformer_local_attention_params params = params_;
    params.query = view_tensor(kName, "query", context.GetInput(0));
    params.key = view_tensor(kName, "key", context.GetInput(1));
    params.value = view_tensor(kName, "value", context.GetInput(2));
    params.attention_mask = view_tensor(kName, "attention_mask", context.GetInput(3));
    params.output = params.query;
    run_operator(context, params, params.output, reformer_cpu_local_attention_workspace,
                 reformer_cpu_local_attention);
  });
}

void LocalAttention::infer_shape(Ort::ShapeInferContext& context) { copy_shape(context); }

}  // namespace reformer::onnxruntime
