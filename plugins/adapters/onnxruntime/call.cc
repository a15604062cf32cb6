#include "adapters/onnxruntime/call.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace reformer::onnxruntime {
namespace {

int32_t dtype_from_onnx(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return REFORMER_FLOAT32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return REFORMER_FLOAT16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return REFORMER_BFLOAT16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return REFORMER_INT32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return REFORMER_INT8;
    default:
      return -1;  // the kernel's own check words the error
  }
}

[[noreturn]] void fail(std::string message) {
  throw Ort::Exception(std::move(message), ORT_INVALID_ARGUMENT);
}

}  // namespace

reformer_tensor view_element(ONNXTensorElementDataType type) {
  reformer_tensor tensor{};
  tensor.dtype = dtype_from_onnx(type);
  return tensor;
}

ONNXTensorElementDataType read_input_type(OrtShapeInferContext* context, size_t input) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's
  auto type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  Ort::ThrowOnError(Ort::GetApi().ShapeInferContext_GetInputTypeShape(context, input, &info));
  Ort::ThrowOnError(Ort::GetApi().GetTensorElementType(info, &type));
  return type;
}

reformer_tensor view_tensor(const char* op, const char* name, Ort::ConstValue value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const std::vector<int64_t> dims = info.GetShape();
  if (dims.size() > REFORMER_MAX_RANK) {
    fail(std::string(op) + ": " + name + " has rank " + std::to_string(dims.size()) +
         ", expected at most " + std::to_string(REFORMER_MAX_RANK));
  }
  reformer_tensor tensor = view_element(info.GetElementType());
  // Inputs are only read.
  tensor.data = const_cast<void*>(value.GetTensorRawData());
  tensor.rank = static_cast<int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), tensor.dims);
  return tensor;
}

void AttributeReader::integer(const char* name, int64_t& value) const {
  try {
    value = info_.GetAttribute<int64_t>(name);
  } catch (const Ort::Exception& error) {
    fail(std::string(op_) + ": attribute " + name + " is missing or no integer (" + error.what() +
         ")");
  }
}

void AttributeReader::integer(const char* name, int32_t& value) const {
  int64_t wide = 0;
  integer(name, wide);
  if (wide < std::numeric_limits<int32_t>::min() || wide > std::numeric_limits<int32_t>::max()) {
    fail(std::string(op_) + ": " + name + " is " + std::to_string(wide) +
         ", expected a 32-bit integer");
  }
  value = static_cast<int32_t>(wide);
}

void AttributeReader::number(const char* name, float& value) const {
  try {
    value = info_.GetAttribute<float>(name);
  } catch (const Ort::Exception& error) {
    fail(std::string(op_) + ": attribute " + name + " is missing or no float32 (" + error.what() +
         ")");
  }
}

// ONNX Runtime does not say so: an attribute is one that can be read as anything.
bool AttributeReader::has(const char* name) const {
  const auto is_a = [&](auto value) {
    try {
      info_.GetAttribute<decltype(value)>(name);
      return true;
    } catch (const Ort::Exception&) {
      return false;
    }
  };
  return is_a(int64_t{}) || is_a(float{}) || is_a(std::string{});
}

std::vector<int32_t> AttributeReader::read_factors(const char* name) const {
  std::vector<int32_t> factors;
  for (const int64_t factor : info_.GetAttributes<int64_t>(name)) {
    // A factor beyond int32 becomes 0, which the kernel refuses.
    const bool fits = factor >= 0 && factor <= std::numeric_limits<int32_t>::max();
    factors.push_back(fits ? static_cast<int32_t>(factor) : 0);
  }
  return factors;
}

void check_status(reformer_status status, const char* error) {
  if (status == REFORMER_OK) return;
  fail(error[0] != '\0' ? error : reformer_status_text(status));
}

}  // namespace reformer::onnxruntime
