#include "adapters/onnxruntime/backend.h"

namespace reformer::onnxruntime {

SessionAllocator::SessionAllocator(const Ort::ConstKernelInfo& info) {
  OrtAllocator* allocator = nullptr;
  Ort::ThrowOnError(Ort::GetApi().KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator));
  allocator_.reset(allocator);
}

const OrtMemoryInfo* SessionAllocator::memory_info() const {
  const OrtMemoryInfo* info = nullptr;
  Ort::ThrowOnError(Ort::GetApi().AllocatorGetInfo(allocator_.get(), &info));
  return info;
}

}  // namespace reformer::onnxruntime
