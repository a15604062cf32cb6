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
  static constexpr Functions<reformer_lsh_buckets_params> kLSHBuckets = {
      reformer_cpu_lsh_buckets_workspace, reformer_cpu_lsh_buckets};
  static constexpr Functions<reformer_lsh_attention_params> kLSHAttention = {
      reformer_cpu_lsh_attention_workspace, reformer_cpu_lsh_attention};
  static constexpr Functions<reformer_local_attention_params> kLocalAttention = {
      reformer_cpu_local_attention_workspace, reformer_cpu_local_attention};

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
  static constexpr Functions<reformer_lsh_buckets_params> kLSHBuckets = {
      reformer_cuda_lsh_buckets_workspace, reformer_cuda_lsh_buckets};
  static constexpr Functions<reformer_lsh_attention_params> kLSHAttention = {
      reformer_cuda_lsh_attention_workspace, reformer_cuda_lsh_attention};
  static constexpr Functions<reformer_local_attention_params> kLocalAttention = {
      reformer_cuda_local_attention_workspace, reformer_cuda_local_attention};

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
