// Sizes the CPU kernels are cut by, and the scratch memory one worker needs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace reformer {

constexpr size_t kLanes = 16;        // rows are padded to this many floats: the widest vector
constexpr size_t kTileKeys = 64;     // keys packed together
constexpr size_t kSegmentTiles = 8;  // tiles whose logits are held at once
constexpr size_t kQueryRows = 32;    // queries whose logits are held at once
constexpr size_t kHashTokens = 128;  // tokens hashed together
constexpr size_t kHashColumns = 64;  // rotated coordinates held at once
constexpr size_t kCacheLine = 64;    // bytes

template <typename Int>
constexpr Int divide_up(Int value, Int by) {
  return (value + by - 1) / by;
}

template <typename Int>
constexpr Int round_up(Int value, Int multiple) {
  return divide_up(value, multiple) * multiple;
}

// Hands out consecutive cache-line aligned pieces of a block of memory. With a null block it only
// counts, so that one function both measures and carves.
class Carver {
 public:
  explicit Carver(void* block) : block_(static_cast<char*>(block)) {}

  template <typename T>
  T* take(size_t count) {
    char* piece = block_ == nullptr ? nullptr : block_ + used_;
    used_ += round_up(count * sizeof(T), kCacheLine);
    return reinterpret_cast<T*>(piece);
  }

  size_t used() const { return used_; }  // bytes

 private:
  char* block_;
  size_t used_ = 0;
};

// The first cache line inside a workspace; kCacheLine extra bytes are asked for to make room.
inline void* align_workspace(void* workspace) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(workspace);
  return reinterpret_cast<void*>(round_up(address, static_cast<uintptr_t>(kCacheLine)));
}

}  // namespace reformer
