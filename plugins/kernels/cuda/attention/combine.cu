#include "kernels/common/sizes.h"
#include "kernels/cuda/attention/combine.h"
#include "kernels/cuda/device/vectors.cuh"

namespace reformer::cuda {
namespace {

constexpr int kThreads = 256;

// Elements a thread has at once: 16 bytes, or one.
template <typename T, bool kVector>
constexpr int kPieceElements = kVector ? kVectorElements<T> : 1;

// One piece of a row as float32.
template <typename T, bool kVector>
__device__ __forceinline__ void load_piece(const Global<const T>& source,
                                           float (&values)[kPieceElements<T, kVector>]) {
  if constexpr (kVector) {
    unpack_vector<T>(load_vector(source), values);
  } else {
    values[0] = to_float(*source);
  }
}

// The usual numbers of rounds: kRounds of them, all loads under way before the first is used.
// `partial` and `lse` are of the first round, the next one's `round_elements` and `length` on.
template <typename T, bool kVector, int kRounds>
__device__ __forceinline__ void add_rounds(const Global<const T>& partial, int64_t round_elements,
                                           const Global<const float>& lse, int64_t length,
                                           float (&sums)[kPieceElements<T, kVector>]) {
  float weights[kRounds];
  float values[kRounds][kPieceElements<T, kVector>];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) weights[r] = lse[r * length];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    load_piece<T, kVector>(partial + r * round_elements, values[r]);
  }
  float highest = weights[0];
#pragma unroll
  for (int r = 1; r < kRounds; ++r) highest = fmaxf(highest, weights[r]);
  float sum = 0;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) sum += expf(weights[r] - highest);
  const float total = highest + logf(sum);  // rounded to float32, as the contract wants
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const float weight = expf(weights[r] - total);
#pragma unroll
    for (int i = 0; i < kPieceElements<T, kVector>; ++i) sums[i] += weight * values[r][i];
  }
}

// The same of any number of rounds.
template <typename T, bool kVector>
__device__ __forceinline__ void add_any_rounds(Global<const T> partial, int64_t round_elements,
                                               const Global<const float>& lse, int64_t length,
                                               int64_t rounds,
                                               float (&sums)[kPieceElements<T, kVector>]) {
  float highest = lse[0];
  for (int64_t r = 1; r < rounds; ++r) highest = fmaxf(highest, lse[r * length]);
  float sum = 0;
  for (int64_t r = 0; r < rounds; ++r) sum += expf(lse[r * length] - highest);
  const float total = highest + logf(sum);
  for (int64_t r = 0; r < rounds; ++r) {
    const float weight = expf(lse[r * length] - total);
    float values[kPieceElements<T, kVector>];
    load_piece<T, kVector>(partial, values);
    partial += round_elements;
#pragma unroll
    for (int i = 0; i < kPieceElements<T, kVector>; ++i) sums[i] += weight * values[i];
  }
}

// A block has `tokens` tokens of one head, a thread one piece of a row after another. The heads
// whose rows attention wrote last come first: of these the L2 cache still has some.
template <typename T, bool kVector, int kRounds>
__global__ void __launch_bounds__(kThreads)
    combine_rounds(const CombineArguments<T> arguments, int tokens, int blocks_per_pair) {
  constexpr int kElements = kPieceElements<T, kVector>;
  const int head_size = static_cast<int>(arguments.head_size);
  const int heads = static_cast<int>(arguments.heads);
  const int pieces = head_size / kElements;
  const int index = static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x);
  const int pair = index / blocks_per_pair;
  const int batch = pair / heads;
  const int64_t length = arguments.length;
  const int64_t width = arguments.heads * arguments.head_size;
  const int64_t start = int64_t{index % blocks_per_pair} * tokens;
  const int64_t column = int64_t{pair % heads} * head_size;
  for (int i = static_cast<int>(threadIdx.x); i < tokens * pieces; i += kThreads) {
    const int64_t position = start + i / pieces;
    if (position >= length) break;
    const int64_t place = column + i % pieces * kElements;
    const Global<const T> partial =
        arguments.partial + ((batch * arguments.rounds * length + position) * width + place);
    const Global<const float> lse = arguments.lse + (pair * arguments.rounds * length + position);
    float sums[kElements] = {};
    if constexpr (kRounds > 0) {
      add_rounds<T, kVector, kRounds>(partial, length * width, lse, length, sums);
    } else {
      add_any_rounds<T, kVector>(partial, length * width, lse, length, arguments.rounds, sums);
    }
    const Global<T> output = arguments.output + ((batch * length + position) * width + place);
    if constexpr (kVector) {
      store_vector(output, pack_vector<T>(sums));
    } else {
      *output = from_float<T>(sums[0]);
    }
  }
}

template <typename T, bool kVector, int kRounds>
reformer_status launch_rounds(const CombineArguments<T>& arguments, void* stream) {
  const int64_t pieces = arguments.head_size / kPieceElements<T, kVector>;
  const int64_t tokens = pieces < kThreads ? kThreads / pieces : 1;
  const int64_t blocks_per_pair = divide_up(arguments.length, tokens);
  return launch(combine_rounds<T, kVector, kRounds>,
                arguments.batch * arguments.heads * blocks_per_pair, kThreads, 0, stream, arguments,
                static_cast<int>(tokens), static_cast<int>(blocks_per_pair));
}

template <typename T, bool kVector>
reformer_status launch_pieces(const CombineArguments<T>& arguments, void* stream) {
  switch (arguments.rounds) {
    case 2:
      return launch_rounds<T, kVector, 2>(arguments, stream);
    case 4:
      return launch_rounds<T, kVector, 4>(arguments, stream);
    case 8:
      return launch_rounds<T, kVector, 8>(arguments, stream);
    default:
      return launch_rounds<T, kVector, 0>(arguments, stream);
  }
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
