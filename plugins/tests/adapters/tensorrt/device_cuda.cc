#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

#include "check.h"
#include "device.h"

namespace reformer::test {
namespace {

// The test itself cannot go on after any of its own calls failed.
void require(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: got %s, expected success; run the test under compute-sanitizer\n", call,
               cudaGetErrorString(error));
  std::exit(1);
}

#define REQUIRE(call) require(call, #call)

void* allocate(size_t size) {
  void* data = nullptr;
  if (size > 0) REQUIRE(cudaMalloc(&data, size));
  return data;
}

}  // namespace

const char* find_device_problem() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count == 0 ? "no GPU" : nullptr;
}

DeviceMemory::DeviceMemory(size_t size, char fill) : data_(allocate(size)), size_(size) {
  if (size > 0) REQUIRE(cudaMemset(data_, fill, size));
  REQUIRE(cudaDeviceSynchronize());  // the contexts' streams do not wait for the default one
}

DeviceMemory::DeviceMemory(const void* source, size_t size) : data_(allocate(size)), size_(size) {
  if (size > 0) REQUIRE(cudaMemcpy(data_, source, size, cudaMemcpyHostToDevice));
  REQUIRE(cudaDeviceSynchronize());
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), size_(other.size_) {
  other.data_ = nullptr;
}

DeviceMemory::~DeviceMemory() { REQUIRE(cudaFree(data_)); }

void DeviceMemory::read(void* target) const {
  if (size_ > 0) REQUIRE(cudaMemcpy(target, data_, size_, cudaMemcpyDeviceToHost));
}

DeviceStream::DeviceStream() {
  REQUIRE(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

DeviceStream::~DeviceStream() { REQUIRE(cudaStreamDestroy(stream_)); }

// What ran on another stream is not waited for here, and its output may be read too early.
void DeviceStream::finish(const char* what) const {
  const cudaError_t error = cudaStreamSynchronize(stream_);
  CHECK(error == cudaSuccess, "%s: %s", what, cudaGetErrorString(error));
}

}  // namespace reformer::test
