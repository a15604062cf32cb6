// Where a context's operands and workspace lie, and the stream that it runs on: the emulated
// device's (device_emulated.cc), or a GPU's (device_cuda.cc). Nothing else differs between the two
// builds.
#pragma once

#include <cstddef>

#include "adapters/tensorrt/tensorrt_api.h"

namespace reformer::test {

// Why nothing can run here; null where a device is.
const char* find_device_problem();

// Memory of the device, of exactly the size that was asked for.
class DeviceMemory {
 public:
  // `size` bytes, each of them `fill`.
  DeviceMemory(size_t size, char fill);
  // A copy of `size` bytes of the host, there when the constructor returns.
  DeviceMemory(const void* source, size_t size);
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  ~DeviceMemory();

  void* data() const { return data_; }  // null when empty
  // Copies everything to the host's `target`, once what its stream holds is done.
  void read(void* target) const;

 private:
  void* data_ = nullptr;
  size_t size_;
};

// A stream that waits for no other one.
class DeviceStream {
 public:
  DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  ~DeviceStream();

  cudaStream_t get() const { return stream_; }
  // Waits for what was enqueued; CHECKs that it ran, and ran here.
  void finish(const char* what) const;

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace reformer::test
