// What every operator of the library does around its kernel: views of ONNX Runtime's tensors,
// attributes, scratch memory, and a status for whatever goes wrong.
#pragma once

#include <cstdint>
#include <exception>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapters/onnxruntime/onnxruntime_api.h"
#include "adapters/operators.h"
#include "reformer_kernels.h"

namespace reformer::onnxruntime {

// Runs `body` and turns an exception into a status: none may cross the C interface.
template <typename Body>
OrtStatusPtr catch_errors(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return Ort::Status(error.what(), error.GetOrtErrorCode()).release();
  } catch (const std::invalid_argument& error) {
    return Ort::Status(error.what(), ORT_INVALID_ARGUMENT).release();
  } catch (const std::exception& error) {
    return Ort::Status(error.what(), ORT_FAIL).release();
  }
}

// A tensor of that type, without shape or data.
reformer_tensor view_element(ONNXTensorElementDataType type);
reformer_tensor view_tensor(const char* op, const char* name, Ort::ConstValue value);

// The type of a node's input, for shape inference: the operators of all T share one schema.
ONNXTensorElementDataType read_input_type(OrtShapeInferContext* context, size_t input);

// A node's attributes, for read_parameters.
class AttributeReader {
 public:
  AttributeReader(const char* op, const Ort::ConstKernelInfo& info) : op_(op), info_(info) {}

  void integer(const char* name, int64_t& value) const;
  void integer(const char* name, int32_t& value) const;
  template <size_t N>
  void integers(const char* name, int32_t (&values)[N], int32_t& count) const {
    copy_factors(op_, name, read_factors(name), values, count);
  }
  void number(const char* name, float& value) const;
  template <typename Int>
  void integer_or(const char* name, Int& value) const {
    if (has(name)) integer(name, value);
  }
  void number_or(const char* name, float& value) const {
    if (has(name)) number(name, value);
  }

 private:
  bool has(const char* name) const;
  std::vector<int32_t> read_factors(const char* name) const;

  const char* op_;
  const Ort::ConstKernelInfo& info_;
};

// Throws unless `status` is REFORMER_OK. `error` is the kernel's message, possibly empty.
void check_status(reformer_status status, const char* error);

// Memory of the backend's arena, given back on destruction.
template <typename Backend>
class Workspace {
 public:
  Workspace(const Backend& backend, const Ort::KernelContext& context, uint64_t size)
      : backend_(backend) {
    if (size == 0) return;
    data_ = backend.allocate(context, static_cast<size_t>(size));
    if (data_ == nullptr) {
      throw Ort::Exception("no memory for a workspace of " + std::to_string(size) + " bytes",
                           ORT_FAIL);
    }
  }
  ~Workspace() {
    if (data_ != nullptr) backend_.release(data_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return data_; }

 private:
  const Backend& backend_;
  void* data_ = nullptr;
};

// Checks shapes, allocates the outputs and the workspace, and runs an operator. `params` has every
// field filled but `execution` and the outputs' data.
template <typename Operator, typename Backend>
void run_operator(const Backend& backend, const Ort::KernelContext& context,
                  typename Operator::Params& params) {
  const auto& functions = Backend::template kFunctions<Operator>;
  char error[512] = "";
  params.execution.error = error;
  params.execution.error_size = sizeof(error);
  backend.prepare(context, params.execution);
  uint64_t size = 0;
  check_status(functions.measure(&params, &size), error);
  for (size_t i = 0; i < std::size(Operator::kOutputs); ++i) {
    reformer_tensor& output = params.*Operator::kOutputs[i].field;
    output.data = context.GetOutput(i, output.dims, static_cast<size_t>(output.rank))
                      .GetTensorMutableRawData();
  }
  const Workspace<Backend> workspace(backend, context, size);
  params.execution.workspace = workspace.data();
  params.execution.workspace_size = size;
  check_status(functions.run(&params), error);
}

}  // namespace reformer::onnxruntime
