// Linear as ONNX Runtime sees it: x of any rank, and a weight that is packed once where it is
// constant.
#pragma once

#include <memory>

#include "adapters/onnxruntime/backend.h"
#include "adapters/onnxruntime/onnxruntime_api.h"
#include "adapters/onnxruntime/packed_memory.h"
#include "reformer_kernels.h"

namespace reformer::onnxruntime {

// One node; computing changes nothing in it.
class LinearKernel {
 public:
  explicit LinearKernel(const Ort::ConstKernelInfo& info);
  OrtStatusPtr ComputeV2(OrtKernelContext* ort_context) const;

 private:
  void pack(const Ort::ConstKernelInfo& info);

  CPUBackend backend_;
  reformer_linear_params params_;
  std::shared_ptr<const PackedMemory> packed_;  // null where an operand is no constant
};

// Linear for one T and one type of weight.
struct LinearOp : Ort::CustomOpBase<LinearOp, LinearKernel, true> {
  LinearOp(ONNXTensorElementDataType element_type, ONNXTensorElementDataType weight_type);

  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info, void** kernel) const;
  const char* GetName() const;
  const char* GetExecutionProviderType() const { return CPUBackend::kProvider; }
  size_t GetInputTypeCount() const;
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(size_t index) const;
  ONNXTensorElementDataType GetOutputType(size_t /*index*/) const { return element_type_; }
  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const;

 private:
  ONNXTensorElementDataType element_type_;
  ONNXTensorElementDataType weight_type_;
};

// Adds Linear with the types of weights that this processor multiplies; none is left out otherwise.
void add_linear(Ort::CustomOpDomain& domain);

}  // namespace reformer::onnxruntime
