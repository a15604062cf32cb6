// The matrix products in float32, without tensor cores: these would round to TF32.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/matrix.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

struct alignas(16) Float4 {
  float at[4];
};

__device__ __forceinline__ Float4 load_float4(const float* shared) {
  return *reinterpret_cast<const Float4*>(shared);
}

template <typename Tile>
struct MatrixSteps<Tile, false> {
  struct Query {};
  struct Weights {
    float columns[Tile::kKeys / 8][4];
  };

  // A lane has four columns in a row, in result[n] and result[n + 1], so that values are loaded 16
  // bytes at a time.
  static __device__ __forceinline__ int32_t result_column(int n, int32_t lane) {
    return 8 * (n & ~1) + 4 * (lane % 4) + 2 * (n & 1);
  }

  static __device__ __forceinline__ void load_query(const float*, int32_t, Query&) {}

  static __device__ __forceinline__ void multiply_keys(const float* query_rows, Query&,
                                                       const float* keys, int32_t lane,
                                                       float (&scores)[Tile::kKeys / 8][4]) {
#pragma unroll
    for (int n = 0; n < Tile::kKeys / 8; ++n) {
      for (float& score : scores[n]) score = 0;
    }
    const float* row = query_rows + lane / 4 * Tile::kStride;
    const float* column = keys + 2 * (lane % 4) * Tile::kStride;
#pragma unroll 1
    for (int first = 0; first < Tile::kHeadSize; first += kSumElements) {
      float sums[Tile::kKeys / 8][4] = {};
#pragma unroll 2
      for (int d = first; d < first + kSumElements; d += 4) add_products(row + d, column + d, sums);
#pragma unroll
      for (int n = 0; n < Tile::kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[n][i] += sums[n][i];
      }
    }
  }

  static __device__ __forceinline__ void keep_weights(const float (&scores)[Tile::kKeys / 8][4],
                                                      Weights& weights) {
#pragma unroll
    for (int n = 0; n < Tile::kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights.columns[n][i] = scores[n][i];
    }
  }

  // A weight goes from the lane that has it to the other three of its row.
  static __device__ __forceinline__ void multiply_values(const Weights& weights,
                                                         const float* values, int32_t lane,
                                                         float (&result)[Tile::kHeadSize / 8][4]) {
#pragma unroll
    for (int key = 0; key < Tile::kKeys; ++key) {
      const float (&pair)[4] = weights.columns[key / 8];
      const int owner = lane / 4 * 4 + key % 8 / 2;
      const float upper = __shfl_sync(kFullWarp, pair[key % 2], owner);
      const float lower = __shfl_sync(kFullWarp, pair[2 + key % 2], owner);
      const float* row = values + key * Tile::kStride + 4 * (lane % 4);
#pragma unroll
      for (int m = 0; m < Tile::kHeadSize / 8; m += 2) {
        const Float4 v = load_float4(row + 8 * m);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          result[m + i / 2][i % 2] += upper * v.at[i];
          result[m + i / 2][2 + i % 2] += lower * v.at[i];
        }
      }
    }
  }

 private:
  // Products are added up in pieces of a row: a long sum loses digits that the logits then lack.
  static constexpr int kSumElements = Tile::kHeadSize < 32 ? Tile::kHeadSize : 32;

  // sums += query . keys over four elements.
  static __device__ __forceinline__ void add_products(const float* row, const float* column,
                                                      float (&sums)[Tile::kKeys / 8][4]) {
    const Float4 q[2] = {load_float4(row), load_float4(row + 8 * Tile::kStride)};
#pragma unroll
    for (int n = 0; n < Tile::kKeys / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const Float4 k = load_float4(column + (8 * n + c) * Tile::kStride);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[n][c] += q[0].at[i] * k.at[i];
          sums[n][2 + c] += q[1].at[i] * k.at[i];
        }
      }
    }
  }
};

}  // namespace reformer::cuda
