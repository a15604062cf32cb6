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
    default:
      return -1;  // the kernel's own check words the error
  }
}

[[noreturn]] void fail(std::string message) {
  throw Ort::Exception(std::move(message), ORT_INVALID_ARGUMENT);
}

}  // namespace

reformer_tensor view_tensor(const char* op, const char* name, Ort::ConstValue value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const std::vector<int64_t> dims = info.GetShape();
  if (dims.size() > REFORMER_MAX_RANK) {
    fail(std::string(op) + ": " + name + " has rank " + std::to_string(dims.size()) +
         ", expected at most " + std::to_string(REFORMER_MAX_RANK));
  }
  reformer_tensor tensor{};
  // Inputs are only read.
  tensor.data = const_cast<void*>(value.GetTensorRawData());
  tensor.dtype = dtype_from_onnx(info.GetElementType());
  tensor.rank = static_cast<int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), tensor.dims);
  return tensor;
}

int64_t read_int(const char* op, const Ort::ConstKernelInfo& info, const char* name) {
  try {
    return info.GetAttribute<int64_t>(name);
  } catch (const Ort::Exception& error) {
    fail(std::string(op) + ": attribute " + name + " is missing or no integer (" + error.what() +
         ")");
  }
}

int32_t read_int32(const char* op, const Ort::ConstKernelInfo& info, const char* name) {
  const int64_t value = read_int(op, info, name);
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
    fail(std::string(op) + ": " + name + " is " + std::to_string(value) +
         ", expected a 32-bit integer");
  }
  return static_cast<int32_t>(value);
}

reformer_chunking read_chunking(const char* op, const Ort::ConstKernelInfo& info) {
  reformer_chunking chunking{};
  chunking.chunk_length = read_int(op, info, "chunk_length");
  chunking.num_chunks_before = read_int(op, info, "num_chunks_before");
  chunking.num_chunks_after = read_int(op, info, "num_chunks_after");
  chunking.padding_multiple = read_int(op, info, "padding_multiple");
  chunking.padding_threshold = read_int(op, info, "padding_threshold");
  chunking.is_causal = read_int32(op, info, "is_causal");
  return chunking;
}

void check_status(reformer_status status, const char* error) {
  if (status == REFORMER_OK) return;
  fail(error[0] != '\0' ? error : reformer_status_text(status));
}

}  // namespace reformer::onnxruntime
