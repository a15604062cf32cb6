#include "adapters/onnxruntime/operators.h"

#include <climits>
#include <string>
#include <vector>

namespace reformer::onnxruntime {
namespace {

template <typename Params>
Params read_header(const char* op, const Ort::ConstKernelInfo& info) {
  Params params{};
  params.struct_size = sizeof(Params);
  params.abi_version = REFORMER_ABI_VERSION;
  params.num_heads = read_int32(op, info, "num_heads");
  return params;
}

}  // namespace

reformer_lsh_buckets_params read_lsh_buckets(const char* op, const Ort::ConstKernelInfo& info) {
  auto params = read_header<reformer_lsh_buckets_params>(op, info);
  const std::vector<int64_t> factors = info.GetAttributes<int64_t>("num_buckets");
  if (factors.size() > REFORMER_MAX_BUCKET_FACTORS) {
    throw Ort::Exception(std::string(op) + ": num_buckets has " + std::to_string(factors.size()) +
                             " factors, expected at most " +
                             std::to_string(REFORMER_MAX_BUCKET_FACTORS),
                         ORT_INVALID_ARGUMENT);
  }
  params.num_factors = static_cast<int32_t>(factors.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    // A factor beyond int32 becomes 0, which the kernel refuses.
    const bool fits = factors[i] >= 0 && factors[i] <= INT32_MAX;
    params.num_buckets[i] = fits ? static_cast<int32_t>(factors[i]) : 0;
  }
  return params;
}

reformer_lsh_attention_params read_lsh_attention(const char* op, const Ort::ConstKernelInfo& info) {
  auto params = read_header<reformer_lsh_attention_params>(op, info);
  params.key_norm_epsilon = info.GetAttribute<float>("key_norm_epsilon");
  params.chunking = read_chunking(op, info);
  return params;
}

reformer_local_attention_params read_local_attention(const char* op,
                                                     const Ort::ConstKernelInfo& info) {
  auto params = read_header<reformer_local_attention_params>(op, info);
  params.chunking = read_chunking(op, info);
  return params;
}

void infer_buckets_shape(Ort::ShapeInferContext& context) {
  const auto query_key = context.GetInputShape(0);
  const auto rotations = context.GetInputShape(1);
  if (query_key.size() != 3 || rotations.size() != 4) return;
  const Ort::ShapeInferContext::Shape buckets = {query_key[0], rotations[0], rotations[2],
                                                 query_key[1]};
  Ort::ThrowOnError(
      context.SetOutputShape(0, buckets, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32).release());
}

// The output has the shape and type of the first input.
void infer_attention_shape(Ort::ShapeInferContext& context) {
  Ort::ThrowOnError(context.SetOutputShape(0, context.GetInputShape(0)).release());
}

}  // namespace reformer::onnxruntime
