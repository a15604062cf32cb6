// One block's shared memory: exactly as large as the launch asked for, and poisoned.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

namespace reformer::cuda::emulation {

// As bytes: NaN in float32, float16 and bfloat16, and -1 in every integer.
constexpr int kPoison = 0xFF;

// What every architecture the kernels are built for can give a block (sm_75 the least).
constexpr size_t kMaxSharedBytes = 64 * 1024;

class SharedBlock {
 public:
  explicit SharedBlock(size_t bytes) : bytes_(bytes) {
    // A fresh allocation, so that the address sanitizer knows its end; without it, a canary does.
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes + kCanaryBytes) != 0) throw std::bad_alloc();
    data_ = static_cast<char*>(memory);
    std::memset(data_, kPoison, bytes);
    std::memset(data_ + bytes, kCanary, kCanaryBytes);
  }
  SharedBlock(const SharedBlock&) = delete;
  SharedBlock& operator=(const SharedBlock&) = delete;
  ~SharedBlock() { std::free(data_); }

  char* data() const { return data_; }

  bool is_intact() const {
    for (size_t i = 0; i < kCanaryBytes; ++i) {
      if (data_[bytes_ + i] != kCanary) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kAlignment = 128;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kCanaryBytes = 0;
#else
  static constexpr size_t kCanaryBytes = 256;
#endif
  static constexpr char kCanary = 0x5A;

  char* data_ = nullptr;
  size_t bytes_;
};

}  // namespace reformer::cuda::emulation
