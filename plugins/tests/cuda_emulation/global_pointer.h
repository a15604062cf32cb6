// Device memory whose every access is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device/element_types.h"
#include "scheduler.h"

namespace reformer::cuda {

template <typename T>
class Global {
 public:
  Global() = default;
  Global(std::nullptr_t) {}
  Global(T* data, int64_t count) : data_(data), count_(count) {}
  // To const.
  template <typename U, typename = std::enable_if_t<std::is_same_v<const U, T>>>
  Global(const Global<U>& other)
      : data_(other.data_), count_(other.count_), offset_(other.offset_) {}

  T& operator[](int64_t index) const { return *check(index, 1); }
  T& operator*() const { return *check(0, 1); }
  Global operator+(int64_t elements) const {
    Global moved = *this;
    moved.offset_ += elements;
    return moved;
  }
  Global& operator+=(int64_t elements) { return *this = *this + elements; }
  bool operator==(std::nullptr_t) const { return data_ == nullptr; }
  bool operator!=(std::nullptr_t) const { return data_ != nullptr; }

  // The address of 16 bytes, which must be a multiple of 16.
  T* vector() const {
    T* address = check(0, static_cast<int64_t>(sizeof(Vector16) / sizeof(T)));
    if (reinterpret_cast<uintptr_t>(address) % sizeof(Vector16) != 0) {
      emulation::fail({"device memory", 0},
                      "a vector of 16 bytes at an address that is not a "
                      "multiple of 16");
    }
    return address;
  }
  bool is_vector_aligned() const {
    return reinterpret_cast<uintptr_t>(data_ + offset_) % sizeof(Vector16) == 0;
  }

 private:
  template <typename>
  friend class Global;

  T* check(int64_t index, int64_t elements) const {
    const int64_t first = offset_ + index;
    if (first < 0 || first + elements > count_) {
      emulation::fail({"device memory", 0}, "elements %lld to %lld of an array of %lld",
                      static_cast<long long>(first), static_cast<long long>(first + elements - 1),
                      static_cast<long long>(count_));
    }
    return data_ + first;
  }

  T* data_ = nullptr;
  int64_t count_ = 0;   // elements
  int64_t offset_ = 0;  // elements; may lie outside until an access
};

template <typename T>
Global<T> make_global(T* data, int64_t count) {
  return {data, count};
}

template <typename T>
Vector16 load_vector(const Global<T>& source) {
  Vector16 vector;
  __builtin_memcpy(&vector, source.vector(), sizeof(vector));
  return vector;
}
template <typename T>
void store_vector(const Global<T>& target, const Vector16& vector) {
  __builtin_memcpy(target.vector(), &vector, sizeof(vector));
}
template <typename T>
bool is_vector_aligned(const Global<T>& data) {
  return data.is_vector_aligned();
}

}  // namespace reformer::cuda
