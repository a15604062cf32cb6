// Lays arrays out in a caller's workspace; the same function measures and lays out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/sizes.h"

namespace reformer {

// Places arrays one behind the other, each at a multiple of `alignment`. Addresses are worked out
// however short the workspace is: nothing may touch them before size() was compared with what the
// caller gave. Without a workspace they are null.
class WorkspaceArena {
 public:
  static constexpr size_t kCacheLine = 64;  // bytes

  explicit WorkspaceArena(void* workspace, size_t alignment = kCacheLine)
      : start_(round_up(reinterpret_cast<uintptr_t>(workspace), uintptr_t{alignment})),
        alignment_(alignment) {}

  template <typename T>
  T* allocate(size_t count) {
    const uintptr_t address = start_ == 0 ? 0 : start_ + used_;
    used_ += round_up(count * sizeof(T), alignment_);
    return reinterpret_cast<T*>(address);
  }

  size_t used() const { return used_; }  // bytes
  // Bytes of workspace to ask for: with room to align the start.
  size_t size() const { return used_ == 0 ? 0 : used_ + alignment_; }

 private:
  uintptr_t start_;
  size_t alignment_;
  size_t used_ = 0;
};

}  // namespace reformer
