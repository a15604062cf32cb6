#include <cstdlib>
#include <cstring>
#include <new>

#include "check.h"
#include "control.h"
#include "device.h"

namespace reformer::test {
namespace {

void* allocate(size_t size) {
  if (size == 0) return nullptr;
  void* data = std::malloc(size);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

}  // namespace

const char* find_device_problem() { return nullptr; }

DeviceMemory::DeviceMemory(size_t size, char fill) : data_(allocate(size)), size_(size) {
  if (size > 0) std::memset(data_, fill, size);
}

DeviceMemory::DeviceMemory(const void* source, size_t size) : data_(allocate(size)), size_(size) {
  if (size > 0) std::memcpy(data_, source, size);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), size_(other.size_) {
  other.data_ = nullptr;
}

DeviceMemory::~DeviceMemory() { std::free(data_); }

void DeviceMemory::read(void* target) const {
  if (size_ > 0) std::memcpy(target, data_, size_);
}

// The emulated device takes any pointer for a stream.
DeviceStream::DeviceStream() : stream_(reinterpret_cast<cudaStream_t>(this)) {}

DeviceStream::~DeviceStream() = default;

void DeviceStream::finish(const char* what) const {
  CHECK(cuda::emulation::last_stream() == stream_, "%s ran on another stream", what);
}

}  // namespace reformer::test
