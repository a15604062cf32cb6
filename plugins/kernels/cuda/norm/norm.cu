// Every element is read once and written once: between the passes over it (the mean, what differs
// from it, the result) a row is in its threads' registers. Rows too wide for that, and FinalNorm's,
// are read again.
#include "kernels/common/sizes.h"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/norm/norm.h"

namespace reformer::cuda {
namespace {

constexpr int kBlock = 256;      // threads that share a wide row
constexpr int kWarpBlock = 128;  // threads of a block whose warps have a row each

// The sum over a row's team of kTeam threads: a warp, or the block, whose warps meet in `shared`.
template <int kTeam>
__device__ __forceinline__ float add_over_team(float sum, float* shared) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  if constexpr (kTeam > kWarpSize) {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread % kWarpSize == 0) shared[thread / kWarpSize] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int warp = 0; warp < kTeam / kWarpSize; ++warp) sum += shared[warp];
  }
  return sum;
}

// kWidth elements as floats, 16 bytes at a time or, when kWidth is 1, by themselves.
template <typename T, int kWidth>
__device__ __forceinline__ void load_piece(const Global<const T>& source, float (&values)[kWidth]) {
  if constexpr (kWidth == 1) {
    values[0] = to_float(source[0]);
  } else {
    constexpr int kElements = kVectorElements<T>;
#pragma unroll
    for (int i = 0; i < kWidth; i += kElements) {
      float part[kElements];
      unpack_vector<T>(load_vector(source + i), part);
#pragma unroll
      for (int j = 0; j < kElements; ++j) values[i + j] = part[j];
    }
  }
}

template <typename T, int kWidth>
__device__ __forceinline__ void store_piece(const Global<T>& target,
                                            const float (&values)[kWidth]) {
  if constexpr (kWidth == 1) {
    target[0] = from_float<T>(values[0]);
  } else {
    constexpr int kElements = kVectorElements<T>;
#pragma unroll
    for (int i = 0; i < kWidth; i += kElements) {
      float part[kElements];
#pragma unroll
      for (int j = 0; j < kElements; ++j) part[j] = values[i + j];
      store_vector(target + i, pack_vector<T>(part));
    }
  }
}

// A team of kTeam threads has a row, each thread kPieces pieces of it, kTeam pieces apart. A thread
// whose piece lies behind the row's end reads the first one in its place and counts zeros: without
// branches all loads of a pass are under way at once.
template <typename T, int kWidth, int kPieces, int kTeam>
__global__ void __launch_bounds__(kTeam == kWarpSize ? kWarpBlock : kTeam)
    norm_rows(const NormArguments<T> arguments) {
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const int64_t row = int64_t{blockIdx.x} * (static_cast<int>(blockDim.x) / kTeam) +
                      static_cast<int>(threadIdx.x) / kTeam;
  if (row >= arguments.rows) return;  // a whole warp
  const int size = arguments.size;
  const int64_t first = row * size;
  const auto column = [&](int p) { return (p * kTeam + lane) * kWidth; };
  const auto read_column = [&](int p) { return column(p) < size ? column(p) : 0; };
  float* shared = kTeam == kWarpSize ? nullptr : reinterpret_cast<float*>(dynamic_shared());

  float values[kPieces][kWidth];
  float updates[kPieces][kWidth];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    load_piece<float>(arguments.stream + (first + read_column(p)), values[p]);
    load_piece<T>(arguments.update + (first + read_column(p)), updates[p]);
  }
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      values[p][i] += updates[p][i];
      sum += column(p) < size ? values[p][i] : 0.0f;
    }
  }
  const float mean = add_over_team<kTeam>(sum, shared) / static_cast<float>(size);

  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (column(p) < size) store_piece<float>(arguments.stream_out + (first + column(p)), values[p]);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      values[p][i] -= mean;
      squares += column(p) < size ? values[p][i] * values[p][i] : 0.0f;
    }
  }
  squares = add_over_team<kTeam>(squares, shared + kTeam / kWarpSize);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(size) + arguments.epsilon);

#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    float scale[kWidth];
    float bias[kWidth];
    load_piece<float>(arguments.scale + read_column(p), scale);
    load_piece<float>(arguments.bias + read_column(p), bias);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      values[p][i] = values[p][i] * inverse * scale[i] + bias[i];
    }
  }
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (column(p) < size) store_piece<T>(arguments.normed + (first + column(p)), values[p]);
  }
}

// A row of any size. Its block reads a sum back, a thread only what it has written itself, or where
// there is none adds again.
template <typename T>
__global__ void __launch_bounds__(kBlock) norm_wide_rows(const NormArguments<T> arguments) {
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  const int width = arguments.width;
  const int others = width - arguments.size;
  const int64_t first = int64_t{blockIdx.x} * arguments.size;
  const auto add = [&](int64_t i) {
    if (i < others) return arguments.other_stream[first + i];
    const int64_t source = first + i - others;
    return arguments.stream[source] + to_float(arguments.update[source]);
  };
  const auto read = [&](int64_t i) {
    return others == 0 ? arguments.stream_out[first + i] : add(i);
  };
  float sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += kBlock) {
    const float value = add(i);
    if (others == 0) arguments.stream_out[first + i] = value;
    sum += value;
  }
  const float mean = add_over_team<kBlock>(sum, shared) / static_cast<float>(width);
  float squares = 0;
  for (int64_t i = threadIdx.x; i < width; i += kBlock) {
    const float apart = read(i) - mean;
    squares += apart * apart;
  }
  squares = add_over_team<kBlock>(squares, shared + kBlock / kWarpSize);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(width) + arguments.epsilon);
  const int64_t target = int64_t{blockIdx.x} * width;
  for (int64_t i = threadIdx.x; i < width; i += kBlock) {
    const float unit = (read(i) - mean) * inverse;
    arguments.normed[target + i] = from_float<T>(unit * arguments.scale[i] + arguments.bias[i]);
  }
}

constexpr size_t kSharedBytes = 2 * kBlock / kWarpSize * sizeof(float);

// Rows of up to kTeam * kHeld elements.
template <typename T, int kWidth, int kHeld, int kTeam>
reformer_status launch_held(const NormArguments<T>& arguments, void* stream) {
  static_assert(kTeam == kWarpSize || kTeam == kBlock);
  constexpr int kThreads = kTeam == kWarpSize ? kWarpBlock : kBlock;
  const size_t shared_bytes = kTeam == kWarpSize ? 0 : kSharedBytes;
  return launch(norm_rows<T, kWidth, kHeld / kWidth, kTeam>,
                divide_up<int64_t>(arguments.rows, kThreads / kTeam), kThreads, shared_bytes,
                stream, arguments);
}

}  // namespace

template <typename T>
reformer_status launch_norm(const NormArguments<T>& arguments, void* stream) {
  constexpr int kVector = kVectorElements<T>;
  constexpr int kWarp = kWarpSize;
  const int size = arguments.size;
  if (size > 32 * kBlock || arguments.width > size) {
    return launch(norm_wide_rows<T>, arguments.rows, kBlock, kSharedBytes, stream, arguments);
  }
  if (!arguments.vector_rows) {
    if (size <= 32 * kWarp) return launch_held<T, 1, 32, kWarp>(arguments, stream);
    return launch_held<T, 1, 32, kBlock>(arguments, stream);
  }
  if (size <= 8 * kWarp) return launch_held<T, kVector, 8, kWarp>(arguments, stream);
  if (size <= 16 * kWarp) return launch_held<T, kVector, 16, kWarp>(arguments, stream);
  if (size <= 32 * kWarp) return launch_held<T, kVector, 32, kWarp>(arguments, stream);
  if (size <= 8 * kBlock) return launch_held<T, kVector, 8, kBlock>(arguments, stream);
  return launch_held<T, kVector, 32, kBlock>(arguments, stream);
}

template reformer_status launch_norm(const NormArguments<float>&, void*);
template reformer_status launch_norm(const NormArguments<float16>&, void*);
template reformer_status launch_norm(const NormArguments<bfloat16>&, void*);

}  // namespace reformer::cuda
