#include "kernels/cuda/attention/kernel.cuh"

namespace reformer::cuda {

template reformer_status launch_attention(const AttentionArguments<float>&, void*);

}  // namespace reformer::cuda
