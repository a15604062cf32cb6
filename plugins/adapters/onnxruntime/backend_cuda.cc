#include <cuda_runtime_api.h>

#include <cstdlib>
#include <string>

#include "adapters/onnxruntime/backend.h"

namespace reformer::onnxruntime {
namespace {

// Whether kernels compiled for `architectures`, such as "80,86,90", run on compute capability
// major.minor: compiled code on its own major version from its own minor version up; the newest is
// there as PTX too, which the driver compiles for whatever came later.
bool has_code_for(const char* architectures, int major, int minor) {
  long newest = 0;
  for (const char* next = architectures; *next != '\0';) {
    char* end = nullptr;
    const long number = std::strtol(next, &end, 10);
    if (number / 10 == major && number % 10 <= minor) return true;
    if (number > newest) newest = number;
    next = *end == ',' ? end + 1 : "";
  }
  return newest > 0 && 10 * major + minor > newest;
}

int read_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error != cudaSuccess) {
    throw Ort::Exception("reformer operators: CUDA device " + std::to_string(device) + ": " +
                             cudaGetErrorString(error),
                         ORT_FAIL);
  }
  return value;
}

void check_device(int device) {
  reformer_library library{};
  library.struct_size = sizeof(library);
  check_status(reformer_library_info(&library), "");
  const char* architectures =
      library.cuda_architectures == nullptr ? "" : library.cuda_architectures;
  const int major = read_attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = read_attribute(cudaDevAttrComputeCapabilityMinor, device);
  if (has_code_for(architectures, major, minor)) return;
  throw Ort::Exception("reformer operators: got a GPU of compute capability " +
                           std::to_string(major) + "." + std::to_string(minor) +
                           ", expected one of the library's CUDA architectures " + architectures +
                           " or newer; build the library for this GPU",
                       ORT_NOT_IMPLEMENTED);
}

}  // namespace

CUDABackend::CUDABackend(const Ort::ConstKernelInfo& info) : allocator_(info) {
  int device = 0;
  Ort::ThrowOnError(Ort::GetApi().MemoryInfoGetId(allocator_.memory_info(), &device));
  check_device(device);
}

void CUDABackend::prepare(const Ort::KernelContext& context, reformer_execution& execution) const {
  execution.num_workers = 1;
  execution.stream = context.GetGPUComputeStream();
}

void* CUDABackend::allocate(const Ort::KernelContext& context, size_t size) const {
  void* data = nullptr;
  // The C++ interface shows the context's allocator, but not the context.
  Ort::ThrowOnError(Ort::GetApi().KernelContext_GetScratchBuffer(
      context.GetOrtKernelContext(), allocator_.memory_info(), size, &data));
  return data;
}

void CUDABackend::release(void* data) const { allocator_.get()->Free(allocator_.get(), data); }

}  // namespace reformer::onnxruntime
