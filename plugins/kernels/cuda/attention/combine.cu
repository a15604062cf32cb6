#include "kernels/common/sizes.h"
#include "kernels/cuda/attention/combine.h"
#include "kernels/cuda/device/vectors.cuh"

namespace reformer::cuda {
namespace {

constexpr int kThreads = 256;

// Elements a thread has at once: 16 bytes, or one.
template <typename T, bool kVector>
constexpr int kPieceElements = kVector ? kVectorElements<T> : 1;

// logsumexp of the rounds, [rounds] at a stride of `length`, rounded to float32.
__device__ __forceinline__ float combine_lse(Global<const float> lse, int64_t rounds,
                                             int64_t length) {
  float highest = lse[0];
  for (int64_t r = 1; r < rounds; ++r) highest = fmaxf(highest, lse[r * length]);
  float sum = 0;
  for (int64_t r = 0; r < rounds; ++r) sum += expf(lse[r * length] - highest);
  return highest + logf(sum);
}

// One piece of the output at token `position` of a batch entry, elements [first, first + piece).
template <typename T, bool kVector>
__device__ __forceinline__ void combine_piece(const CombineArguments<T>& arguments, int batch,
                                              int64_t position, int first) {
  constexpr int kElements = kPieceElements<T, kVector>;
  const int64_t length = arguments.length;
  const int64_t rounds = arguments.rounds;
  const int width = static_cast<int>(arguments.heads * arguments.head_size);
  const int64_t head = batch * arguments.heads + first / static_cast<int>(arguments.head_size);
  const Global<const float> lse = arguments.lse + head * rounds * length + position;
  const float total = combine_lse(lse, rounds, length);
  float sums[kElements] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    const float weight = expf(lse[r * length] - total);
    const Global<const T> partial =
        arguments.partial + ((batch * rounds + r) * length + position) * width + first;
    if constexpr (kVector) {
      float values[kElements];
      unpack_vector<T>(load_vector(partial), values);
#pragma unroll
      for (int i = 0; i < kElements; ++i) sums[i] += weight * values[i];
    } else {
      sums[0] += weight * to_float(*partial);
    }
  }
  const Global<T> output = arguments.output + (batch * length + position) * width + first;
  if constexpr (kVector) {
    store_vector(output, pack_vector<T>(sums));
  } else {
    *output = from_float<T>(sums[0]);
  }
}

// A block has `tokens` tokens of one batch entry, a thread one piece of a row after another.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    combine_rounds(const CombineArguments<T> arguments, int tokens, int blocks_per_entry) {
  constexpr int kElements = kPieceElements<T, kVector>;
  const int pieces = static_cast<int>(arguments.heads * arguments.head_size) / kElements;
  const int batch = static_cast<int>(blockIdx.x) / blocks_per_entry;
  const int64_t start = int64_t{static_cast<int>(blockIdx.x) % blocks_per_entry} * tokens;
  // Not more than kThreads pieces, or one token's: both fit.
  for (int i = static_cast<int>(threadIdx.x); i < tokens * pieces; i += kThreads) {
    const int64_t position = start + i / pieces;
    if (position < arguments.length) {
      combine_piece<T, kVector>(arguments, batch, position, i % pieces * kElements);
    }
  }
}

template <typename T, bool kVector>
reformer_status launch_pieces(const CombineArguments<T>& arguments, void* stream) {
  const int64_t pieces = arguments.heads * arguments.head_size / kPieceElements<T, kVector>;
  const int64_t tokens = pieces < kThreads ? kThreads / pieces : 1;
  const int64_t blocks_per_entry = divide_up(arguments.length, tokens);
  return launch(combine_rounds<T, kVector>, arguments.batch * blocks_per_entry, kThreads, 0, stream,
                arguments, static_cast<int>(tokens), static_cast<int>(blocks_per_entry));
}

}  // namespace

template <typename T>
reformer_status launch_combine(const CombineArguments<T>& arguments, void* stream) {
  return arguments.vector_rows ? launch_pieces<T, true>(arguments, stream)
                               : launch_pieces<T, false>(arguments, stream);
}

template reformer_status launch_combine(const CombineArguments<float>&, void*);
template reformer_status launch_combine(const CombineArguments<float16>&, void*);
template reformer_status launch_combine(const CombineArguments<bfloat16>&, void*);

}  // namespace reformer::cuda
