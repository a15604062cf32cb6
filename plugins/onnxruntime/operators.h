// The three operators as ONNX Runtime sees them. A kernel object is one node: it holds the node's
// attributes and is shared by concurrent runs, so computing changes nothing in it.
#pragma once

#include <cstddef>

#include "onnxruntime/call.h"
#include "onnxruntime/onnxruntime_api.h"

namespace reformer::onnxruntime {

constexpr ONNXTensorElementDataType kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr ONNXTensorElementDataType kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
// Stands for T in the lists of types below.
constexpr ONNXTensorElementDataType kT = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

class LSHBuckets {
 public:
  static constexpr const char* kName = "LSHBuckets";
  static constexpr ONNXTensorElementDataType kInputs[] = {kT, kFloat32, kInt32};
  static constexpr ONNXTensorElementDataType kOutput = kInt32;
  explicit LSHBuckets(const Ort::ConstKernelInfo& info);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) const;
  static void infer_shape(Ort::ShapeInferContext& context);

 private:
  reformer_lsh_buckets_params params_{};
};

class LSHAttention {
 public:
  static constexpr const char* kName = "LSHAttention";
  static constexpr ONNXTensorElementDataType kInputs[] = {kT, kT, kInt32, kInt32};
  static constexpr ONNXTensorElementDataType kOutput = kT;
  explicit LSHAttention(const Ort::ConstKernelInfo& info);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) const;
  static void infer_shape(Ort::ShapeInferContext& context);

 private:
  reformer_lsh_attention_params params_{};
};

class LocalAttention {
 public:
  static constexpr const char* kName = "LocalAttention";
  static constexpr ONNXTensorElementDataType kInputs[] = {kT, kT, kT, kInt32};
  static constexpr ONNXTensorElementDataType kOutput = kT;
  explicit LocalAttention(const Ort::ConstKernelInfo& info);
  OrtStatusPtr ComputeV2(OrtKernelContext* context) const;
  static void infer_shape(Ort::ShapeInferContext& context);

 private:
  reformer_local_attention_params params_{};
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
  const char* GetExecutionProviderType() const { return "CPUExecutionProvider"; }
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
