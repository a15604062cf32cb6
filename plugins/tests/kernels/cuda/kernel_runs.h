// Small kernels of the tests' own, on the emulated device.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename... Args>
bool run(void (*kernel)(Args...), unsigned blocks, unsigned threads, size_t shared_bytes,
         Args... args) {
  return launch(kernel, blocks, threads, shared_bytes, nullptr, args...) == REFORMER_OK;
}

template <typename T>
Global<T> view(std::vector<T>& values) {
  return make_global(values.data(), static_cast<int64_t>(values.size()));
}

}  // namespace reformer::cuda
