#include "adapters/onnxruntime/linear.h"

#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "adapters/onnxruntime/call.h"
#include "adapters/operators.h"

namespace reformer::onnxruntime {
namespace {

using Params = reformer_linear_params;
enum Input : size_t { kX, kWeight, kScales, kBias };

// A tensor of any rank as [all dimensions but the last, the last].
reformer_tensor view_rows(const char* name, Ort::ConstValue value, std::vector<int64_t>* dims) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  *dims = info.GetShape();
  if (dims->empty()) {
    throw Ort::Exception(
        std::string(Linear::kName) + ": " + name + " has rank 0, expected at least 1",
        ORT_INVALID_ARGUMENT);
  }
  const auto count = static_cast<int64_t>(info.GetElementCount());
  reformer_tensor rows = view_element(info.GetElementType());
  rows.data = const_cast<void*>(value.GetTensorRawData());
  rows.rank = 2;
  rows.dims[1] = dims->back();
  rows.dims[0] = rows.dims[1] == 0 ? 0 : count / rows.dims[1];
  return rows;
}

// Of an optional input; one that is not there has rank 0.
reformer_tensor view_optional(const char* name, Ort::ConstValue value) {
  return value == nullptr ? reformer_tensor{} : view_tensor(Linear::kName, name, value);
}

const char* name_of(size_t input) { return Linear::kInputs[input].rule.name; }

void view_operands(const Ort::KernelContext& context, Params& params) {
  const size_t count = context.GetInputCount();
  params.weight = view_tensor(Linear::kName, name_of(kWeight), context.GetInput(kWeight));
  if (kScales < count) params.scales = view_optional(name_of(kScales), context.GetInput(kScales));
  if (kBias < count) params.bias = view_optional(name_of(kBias), context.GetInput(kBias));
}

}  // namespace

LinearKernel::LinearKernel(const Ort::ConstKernelInfo& info)
    : backend_(info), params_(read_parameters<Linear>(AttributeReader(Linear::kName, info))) {
  pack(info);
}

// Afterwards the session's own copies are not looked at any more.
void LinearKernel::pack(const Ort::ConstKernelInfo& info) {
  reformer_tensor operands[std::size(Linear::kInputs)] = {};
  for (size_t i = kWeight; i < info.GetInputCount(); ++i) {
    if (info.GetInputName(i).empty()) continue;
    int is_constant = 0;
    const Ort::ConstValue value = info.GetTensorConstantInput(i, &is_constant);
    if (is_constant == 0) return;
    operands[i] = view_tensor(Linear::kName, name_of(i), value);
  }
  reformer_linear_params params = params_;
  params.weight = operands[kWeight];
  params.scales = operands[kScales];
  params.bias = operands[kBias];
  // What is packed does not depend on x, but for its type, which the bias has.
  const auto type = info.GetInputTypeInfo(kX).GetTensorTypeAndShapeInfo().GetElementType();
  params.x = view_element(type);
  params.x.rank = 2;
  params.x.dims[1] = params.weight.rank == 2 ? params.weight.dims[1] : 0;
  char error[512] = "";
  params.execution.error = error;
  params.execution.error_size = sizeof(error);
  params.execution.num_workers = 1;
  uint64_t size = 0;
  check_status(reformer_cpu_linear_packed_size(&params, &size), error);
  auto packed = std::make_unique<PackedMemory>(size);
  params.packed = packed->data();
  params.packed_size = packed->size();
  check_status(reformer_cpu_linear_pack(&params), error);
  packed_ = share_packed(std::move(packed));
  params_.packed = packed_->data();
  params_.packed_size = packed_->size();
  for (auto operand : {&Params::weight, &Params::scales, &Params::bias}) {
    params_.*operand = params.*operand;
    (params_.*operand).data = nullptr;
  }
}

OrtStatusPtr LinearKernel::ComputeV2(OrtKernelContext* ort_context) const {
  return catch_errors([&] {
    const Ort::KernelContext context(ort_context);
    std::vector<int64_t> dims;
    auto params = params_;
    params.x = view_rows(name_of(kX), context.GetInput(kX), &dims);
    if (packed_ == nullptr) view_operands(context, params);
    params.y = params.x;
    params.y.data = nullptr;
    params.y.dims[1] = params.weight.rank == 2 ? params.weight.dims[0] : 0;
    char error[512] = "";
    params.execution.error = error;
    params.execution.error_size = sizeof(error);
    backend_.prepare(context, params.execution);
    uint64_t size = 0;
    check_status(reformer_cpu_linear_workspace(&params, &size), error);
    dims.back() = params.y.dims[1];
    params.y.data = context.GetOutput(0, dims).GetTensorMutableRawData();
    const Workspace<CPUBackend> workspace(backend_, context, size);
    params.execution.workspace = workspace.data();
    params.execution.workspace_size = size;
    check_status(reformer_cpu_linear(&params), error);
  });
}

LinearOp::LinearOp(ONNXTensorElementDataType element_type, ONNXTensorElementDataType weight_type)
    : element_type_(element_type), weight_type_(weight_type) {
  // No shapes are inferred: before 1.24 ONNX Runtime crashes over an operator that does where an
  // input is left out before another, as the scales are.
  OrtCustomOp::version = kApiVersion;
}

OrtStatusPtr LinearOp::CreateKernelV2(const OrtApi& /*api*/, const OrtKernelInfo* info,
                                      void** kernel) const {
  return catch_errors([&] { *kernel = new LinearKernel(Ort::ConstKernelInfo(info)); });
}

const char* LinearOp::GetName() const { return Linear::kName; }

size_t LinearOp::GetInputTypeCount() const { return std::size(Linear::kInputs); }

ONNXTensorElementDataType LinearOp::GetInputType(size_t index) const {
  switch (index) {
    case kWeight:
      return weight_type_;
    case kScales:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    default:
      return element_type_;
  }
}

OrtCustomOpInputOutputCharacteristic LinearOp::GetInputCharacteristic(size_t index) const {
  return index < kScales ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

void add_linear(Ort::CustomOpDomain& domain) {
  reformer_library library{};
  library.struct_size = sizeof(library);
  check_status(reformer_library_info(&library), "");
  constexpr auto kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  constexpr auto kBFloat16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  if (library.int8_products != nullptr) {
    static const LinearOp float32(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kInt8);
    static const LinearOp float16(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, kInt8);
    static const LinearOp bfloat16(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, kInt8);
    domain.Add(&float32);
    domain.Add(&float16);
    domain.Add(&bfloat16);
  }
  if (library.float32_products != nullptr) {
    constexpr auto kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    static const LinearOp float32(kFloat32, kFloat32);
    domain.Add(&float32);
  }
  if (library.bfloat16_products != nullptr) {
    static const LinearOp float32(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kBFloat16);
    static const LinearOp bfloat16(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, kBFloat16);
    domain.Add(&float32);
    domain.Add(&bfloat16);
  }
}

}  // namespace reformer::onnxruntime
