// Where an operator runs. A backend belongs to one kernel object; it names ONNX Runtime's execution
// provider, holds the allocator of that provider's memory, and fills what a call needs to execute.
#pragma once

#include <cstddef>
#include <memory>

#include "adapters/onnxruntime/call.h"
#include "adapters/onnxruntime/onnxruntime_api.h"
#include "reformer_kernels.h"

namespace reformer::onnxruntime {

// The allocator of the memory that the kernel's provider keeps tensors in.
class SessionAllocator {
 public:
  explicit SessionAllocator(const Ort::ConstKernelInfo& info);
  OrtAllocator* get() const { return allocator_.get(); }
  const OrtMemoryInfo* memory_info() const;

 private:
  struct Release {
    void operator()(OrtAllocator* allocator) const { Ort::GetApi().ReleaseAllocator(allocator); }
  };
  std::unique_ptr<OrtAllocator, Release> allocator_;
};

// The session's own threads.
class CPUBackend {
 public:
  static constexpr const char* kProvider = "CPUExecutionProvider";
  template <typename Operator>
  static constexpr auto kFunctions = Operator::kCPU;

  explicit CPUBackend(const Ort::ConstKernelInfo& info) : allocator_(info) {}
  void prepare(const Ort::KernelContext& context, reformer_execution& execution) const;
  void* allocate(const Ort::KernelContext& context, size_t size) const;
  void release(void* data) const;

 private:
  SessionAllocator allocator_;
};

#ifdef REFORMER_WITH_CUDA
// The stream that the CUDA provider runs its own kernels on.
class CUDABackend {
 public:
  static constexpr const char* kProvider = "CUDAExecutionProvider";
  template <typename Operator>
  static constexpr auto kFunctions = Operator::kCUDA;

  // Throws when the library has no code for the provider's GPU.
  explicit CUDABackend(const Ort::ConstKernelInfo& info);
  void prepare(const Ort::KernelContext& context, reformer_execution& execution) const;
  // The arena remembers the stream: memory given back goes to work that is enqueued later on the
  // same stream, or on another one only after it has waited for this one.
  void* allocate(const Ort::KernelContext& context, size_t size) const;
  void release(void* data) const;

 private:
  SessionAllocator allocator_;
};
#endif

}  // namespace reformer::onnxruntime
