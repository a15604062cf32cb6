// The CUDA operators as a backend, here on the emulated device.
#pragma once

#include "operands.h"

namespace reformer::test {

extern const Backend kCudaBackend;

}  // namespace reformer::test
