// Cuts a caller's workspace into aligned pieces; one function both measures and carves.
#pragma once

#include <cstddef>
#include <cstdint>

namespace reformer {

template <typename Int>
constexpr Int divide_up(Int value, Int by) {
  return (value + by - 1) / by;
}

template <typename Int>
constexpr Int round_up(Int value, Int multiple) {
  return divide_up(value, multiple) * multiple;
}

// Hands out consecutive pieces of a block of memory, each at a multiple of `alignment` from the
// block's start. With a null block it only counts.
class Carver {
 public:
  static constexpr size_t kCacheLine = 64;  // bytes

  explicit Carver(void* block, size_t alignment = kCacheLine)
      : block_(static_cast<char*>(block)), alignment_(alignment) {}

  template <typename T>
  T* take(size_t count) {
    char* piece = block_ == nullptr ? nullptr : block_ + used_;
    used_ += round_up(count * sizeof(T), alignment_);
    return reinterpret_cast<T*>(piece);
  }

  size_t used() const { return used_; }  // bytes

 private:
  char* block_;
  size_t alignment_;
  size_t used_ = 0;
};

// The first multiple of `alignment` inside a workspace; that many extra bytes are asked for to make
// room.
inline void* align_workspace(void* workspace, size_t alignment = Carver::kCacheLine) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(workspace);
  return reinterpret_cast<void*>(round_up(address, static_cast<uintptr_t>(alignment)));
}

}  // namespace reformer
