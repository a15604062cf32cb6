#include "kernels/cuda/hash/kernel.cuh"

namespace reformer::cuda {

template <>
reformer_status launch_hash(const HashArguments<float16>& arguments, void* stream) {
  return launch_for_size(arguments, stream);
}

}  // namespace reformer::cuda
