#include "kernels/cuda/hash/half.cuh"

namespace reformer::cuda {

template <>
reformer_status launch_hash(const HashArguments<float16>& arguments, void* stream) {
  return launch_hash_half(arguments, stream);
}

}  // namespace reformer::cuda
