// ResidualNorm and FinalNorm on the emulated device.
#pragma once

#include "control.h"
#include "norm_call.h"

namespace reformer::test {

constexpr NormFunctions kCudaNorm = {reformer_cuda_residual_norm_workspace,
                                     reformer_cuda_residual_norm};

// Runs the call with a thread order that `seed` determines: its share of the allowed error.
inline double measure_on_device(const Norm& call, uint32_t seed) {
  cuda::emulation::set_seed(seed);
  return measure_norm(call, run_norm(call, 1, kCudaNorm));
}

}  // namespace reformer::test
