// What every operator of the library does around its kernel: views of ONNX Runtime's tensors, the
// session's threads, scratch memory from its allocator, and a status for whatever goes wrong.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "onnxruntime/onnxruntime_api.h"
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
  } catch (const std::exception& error) {
    return Ort::Status(error.what(), ORT_FAIL).release();
  }
}

reformer_tensor view_tensor(const char* op, const char* name, Ort::ConstValue value);

// An integer attribute of the node.
int64_t read_int(const char* op, const Ort::ConstKernelInfo& info, const char* name);
int32_t read_int32(const char* op, const Ort::ConstKernelInfo& info, const char* name);
reformer_chunking read_chunking(const char* op, const Ort::ConstKernelInfo& info);

// Throws unless `status` is REFORMER_OK. `error` is the kernel's message, possibly empty.
void check_status(reformer_status status, const char* error);

// Memory of the session's arena, given back on destruction.
class Workspace {
 public:
  Workspace(const Ort::KernelContext& context, uint64_t size);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return data_; }

 private:
  OrtAllocator* allocator_ = nullptr;
  void* data_ = nullptr;
};

// As many workers as the machine has threads; the session's pool decides how many run at once.
int32_t count_workers();

// parallel_for of the C interface on the session's own pool; `context` is an Ort::KernelContext.
void run_parallel(void* context, int64_t total, reformer_task task, void* argument);

// Checks shapes, allocates `output` and the workspace, and runs an operator. `params` has every
// field filled but `execution` and output data.
template <typename Params>
void run_operator(const Ort::KernelContext& context, Params& params, reformer_tensor& output,
                  reformer_status (*measure)(const Params*, uint64_t*),
                  reformer_status (*run)(const Params*)) {
  char error[512] = "";
  params.execution.error = error;
  params.execution.error_size = sizeof(error);
  params.execution.num_workers = count_workers();
  params.execution.parallel_for = run_parallel;
  params.execution.parallel_context = const_cast<Ort::KernelContext*>(&context);
  uint64_t size = 0;
  check_status(measure(&params, &size), error);
  output.data =
      context.GetOutput(0, output.dims, static_cast<size_t>(output.rank)).GetTensorMutableRawData();
  const Workspace workspace(context, size);
  params.execution.workspace = workspace.data();
  params.execution.workspace_size = size;
  check_status(run(&params), error);
}

}  // namespace reformer::onnxruntime
