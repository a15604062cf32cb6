// Packed weights in memory, once for all sessions of the process that have the same: model.onnx and
// decode.onnx of an artifact, or one model that is opened twice.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace reformer::onnxruntime {

// Memory at a multiple of a cache line.
class PackedMemory {
 public:
  explicit PackedMemory(uint64_t size)
      : data_(::operator new(size, std::align_val_t{kAlignment})), size_(size) {}
  void* data() const { return data_.get(); }
  uint64_t size() const { return size_; }

 private:
  static constexpr size_t kAlignment = 64;
  struct Release {
    void operator()(void* data) const { ::operator delete(data, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<void, Release> data_;
  uint64_t size_;
};

// `packed`, or memory with the same bytes that another kernel holds; nobody writes to it any more.
// Threads may call this at once. It lasts as long as somebody holds it.
std::shared_ptr<const PackedMemory> share_packed(std::unique_ptr<const PackedMemory> packed);

// For tests: how many blocks there are.
size_t count_shared();

}  // namespace reformer::onnxruntime
