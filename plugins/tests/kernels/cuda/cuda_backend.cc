#include "cuda_backend.h"

namespace reformer::test {

const Backend kCudaBackend = {"CUDA",
                              reformer_cuda_lsh_buckets_workspace,
                              reformer_cuda_lsh_buckets,
                              reformer_cuda_lsh_attention_workspace,
                              reformer_cuda_lsh_attention,
                              reformer_cuda_local_attention_workspace,
                              reformer_cuda_local_attention};

}  // namespace reformer::test
