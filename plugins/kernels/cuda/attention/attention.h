// The attention launch: what both attention operators enqueue after their preparations.
#pragma once

#include "kernels/cuda/attention/arguments.h"
#include "reformer_kernels.h"

namespace reformer::cuda {

// Enqueues softmax(q . k) v of every chunk of every round on `stream`, a cudaStream_t. TOO_LARGE
// when the chunks are more than a grid has blocks. T is float, float16 or bfloat16.
template <typename T>
reformer_status launch_attention(const AttentionArguments<T>& arguments, void* stream);

extern template reformer_status launch_attention(const AttentionArguments<float>&, void*);
extern template reformer_status launch_attention(const AttentionArguments<float16>&, void*);
extern template reformer_status launch_attention(const AttentionArguments<bfloat16>&, void*);

}  // namespace reformer::cuda
