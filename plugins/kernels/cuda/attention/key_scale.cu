#include "kernels/common/sizes.h"
#include "kernels/cuda/attention/base2.h"
#include "kernels/cuda/attention/key_scale.h"
#include "kernels/cuda/device/vectors.cuh"

namespace reformer::cuda {
namespace {

constexpr int kThreads = 256;

// Sum of squares over the group of `lanes` lanes that shares a row.
__device__ __forceinline__ float add_over_lanes(float sum, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  return sum;
}

// One lane's share of a row's sum of squares.
template <typename T>
__device__ __forceinline__ float sum_squares(Global<const T> row, int head_size, bool vector_rows,
                                             int lane, int lanes) {
  float sum = 0;
  if (vector_rows) {
    constexpr int kElements = kVectorElements<T>;
    for (int i = lane * kElements; i < head_size; i += lanes * kElements) {
      float values[kElements];
      unpack_vector<T>(load_vector(row + i), values);
#pragma unroll
      for (int j = 0; j < kElements; ++j) sum += values[j] * values[j];
    }
  } else {
    for (int i = lane; i < head_size; i += lanes) {
      const float value = to_float(row[i]);
      sum += value * value;
    }
  }
  return sum;
}

// A group of `lanes` lanes has one row; a block has positions of one head that follow one another.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scale_keys(const KeyScaleArguments<T> arguments, int lanes, int blocks_per_head) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int pair = static_cast<int>(blockIdx.x) / blocks_per_head;
  const int first = static_cast<int>(blockIdx.x) % blocks_per_head * (kThreads / lanes);
  const int64_t position = int64_t{first} + static_cast<int>(threadIdx.x) / lanes;
  const int heads = static_cast<int>(arguments.heads);
  const int head_size = static_cast<int>(arguments.head_size);
  const bool exists = position < arguments.length;
  const int64_t token = pair / heads * arguments.length + position;
  float sum = 0;
  if (exists) {
    const int64_t row = token * heads + pair % heads;
    sum = sum_squares(arguments.query_key + row * head_size, head_size, arguments.vector_rows, lane,
                      lanes);
  }
  sum = add_over_lanes(sum, lanes);
  if (!exists || lane != 0) return;
  const float size = static_cast<float>(head_size);
  const float scale = kLog2E / (sqrtf(sum / size + arguments.epsilon) * sqrtf(size));
  arguments.key_scale[pair * arguments.length + position] =
      arguments.mask[token] != 0 ? scale : -scale;
}

}  // namespace

template <typename T>
reformer_status launch_key_scale(const KeyScaleArguments<T>& arguments, void* stream) {
  // As many lanes as a row has pieces, up to a warp, a power of two.
  const int64_t pieces =
      arguments.vector_rows ? arguments.head_size / kVectorElements<T> : arguments.head_size;
  int lanes = 1;
  while (lanes < kWarpSize && lanes < pieces) lanes *= 2;
  const int64_t blocks_per_head = divide_up<int64_t>(arguments.length, kThreads / lanes);
  const int64_t blocks = arguments.batch * arguments.heads * blocks_per_head;
  return launch(scale_keys<T>, blocks, kThreads, 0, stream, arguments, lanes,
                static_cast<int>(blocks_per_head));
}

template reformer_status launch_key_scale(const KeyScaleArguments<float>&, void*);
template reformer_status launch_key_scale(const KeyScaleArguments<float16>&, void*);
template reformer_status launch_key_scale(const KeyScaleArguments<bfloat16>&, void*);

}  // namespace reformer::cuda
