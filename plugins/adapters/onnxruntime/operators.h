// The three operators as ONNX Runtime sees them, on any backend. A kernel object is one node: it
// holds the node's attributes and is shared by concurrent runs, so computing changes nothing in it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "adapters/onnxruntime/backend.h"
#include "adapters/onnxruntime/call.h"
#include "adapters/onnxruntime/onnxruntime_api.h"

namespace reformer::onnxruntime {

constexpr ONNXTensorElementDataType kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr ONNXTensorElementDataType kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
// Stands for T in the lists of types below.
constexpr ONNXTensorElementDataType kT = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

// The attributes of a node, without tensors and execution.
reformer_lsh_buckets_params read_lsh_buckets(const char* op, const Ort::ConstKernelInfo& info);
reformer_lsh_attention_params read_lsh_attention(const char* op, const Ort::ConstKernelInfo& info);
reformer_local_attention_params read_local_attention(const char* op,
                                                     const Ort::ConstKernelInfo& info);

// Each writes the shape of output 0 as far as the inputs' shapes are known.
void infer_buckets_shape(Ort::ShapeInferContext& context);
void infer_attention_shape(Ort::ShapeInferContext& context);

template <typename Backend>
class LSHBuckets {
 public:
  static constexpr const char* kName = "LSHBuckets";
  static constexpr const char* kProvider = Backend::kProvider;
  static constexpr ONNXTensorElementDataType kInputs[] = {kT, kFloat32, kInt32};
  static constexpr ONNXTensorElementDataType kOutput = kInt32;
  static constexpr auto infer_shape = infer_buckets_shape;

  explicit LSHBuckets(const Ort::ConstKernelInfo& info)
      : backend_(info), params_(read_lsh_buckets(kName, info)) {}

  OrtStatusPtr ComputeV2(OrtKernelContext* ort_context) const {
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
      run_operator(backend_, Backend::kLSHBuckets, context, params, params.buckets);
    });
  }

 private:
  Backend backend_;
  reformer_lsh_buckets_params params_;
};

template <typename Backend>
class LSHAttention {
 public:
  static constexpr const char* kName = "LSHAttention";
  static constexpr const char* kProvider = Backend::kProvider;
  static constexpr ONNXTensorElementDataType kInputs[] = {kT, kT, kInt32, kInt32};
  static constexpr ONNXTensorElementDataType kOutput = kT;
  static constexpr auto infer_shape = infer_attention_shape;

  explicit LSHAttention(const Ort::ConstKernelInfo& info)
      : backend_(info), params_(read_lsh_attention(kName, info)) {}

  OrtStatusPtr ComputeV2(OrtKernelContext* ort_context) const {
    return catch_errors([&] {
      const Ort::KernelContext context(ort_context);
      reformer_lsh_attention_params params = params_;
      params.query_key = view_tensor(kName, "query_key", context.GetInput(0));
      params.value = view_tensor(kName, "value", context.GetInput(1));
      params.buckets = view_tensor(kName, "buckets", context.GetInput(2));
      params.attention_mask = view_tensor(kName, "attention_mask", context.GetInput(3));
      params.output = params.query_key;
      run_operator(backend_, Backend::kLSHAttention, context, params, params.output);
    });
  }

 private:
  Backend backend_;
  reformer_lsh_attention_params params_;
};

template <typename Backend>
class LocalAttention {
 public:
  static constexpr const char* kName = "LocalAttention";
  static constexpr const char* kProvider = Backend::kProvider;
  static constexpr ONNXTensorElementDataType kInputs[] = {kT, kT, kT, kInt32};
  static constexpr ONNXTensorElementDataType kOutput = kT;
  static constexpr auto infer_shape = infer_attention_shape;

  explicit LocalAttention(const Ort::ConstKernelInfo& info)
      : backend_(info), params_(read_local_attention(kName, info)) {}

  OrtStatusPtr ComputeV2(OrtKernelContext* ort_context) const {
    return catch_errors([&] {
      const Ort::KernelContext context(ort_context);
      reformer_local_attention_params params = params_;
      params.query = view_tensor(kName, "query", context.GetInput(0));
      params.key = view_tensor(kName, "key", context.GetInput(1));
      params.value = view_tensor(kName, "value", context.GetInput(2));
      params.attention_mask = view_tensor(kName, "attention_mask", context.GetInput(3));
      params.output = params.query;
      run_operator(backend_, Backend::kLocalAttention, context, params, params.output);
    });
  }

 private:
  Backend backend_;
  reformer_local_attention_params params_;
};

// An operator for one T.
template <typename Kernel>
struct Operator : Ort::CustomOpBase<Operator<Kernel>, Kernel, true> {
  explicit Operator(ONNXTensorElementDataType element_type) : element_type_(element_type) {
    OrtCustomOp::version = kApiVersion;
  }

  OrtStatusPtr CreateKernelV2(const OrtApi& /*api*/, const OrtKernelInfo* info,
                              void** kernel) const {
    return catch_errors([&] { *kernel = new Kernel(Ort::ConstKernelInfo(info)); });
  }
  static Ort::Status InferOutputShape(Ort::ShapeInferContext& context) {
    return Ort::Status(catch_errors([&] { Kernel::infer_shape(context); }));
  }
  const char* GetName() const { return Kernel::kName; }
  const char* GetExecutionProviderType() const { return Kernel::kProvider; }
  size_t GetInputTypeCount() const { return std::size(Kernel::kInputs); }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(size_t index) const {
    return resolve(Kernel::kInputs[index]);
  }
  ONNXTensorElementDataType GetOutputType(size_t /*index*/) const {
    return resolve(Kernel::kOutput);
  }

 private:
  ONNXTensorElementDataType resolve(ONNXTensorElementDataType type) const {
    return type == kT ? element_type_ : type;
  }

  ONNXTensorElementDataType element_type_;
};

}  // namespace reformer::onnxruntime
