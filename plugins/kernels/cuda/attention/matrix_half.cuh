// The matrix products on tensor cores: 16-bit elements, float32 sums.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/matrix.cuh"
#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

template <typename Tile>
struct MatrixSteps<Tile, true> {
  using T = typename Tile::T;
  static constexpr int kQuerySteps = Tile::kHeadSize / 16;
  static constexpr int kKeySteps = Tile::kKeys / 16;

  // Operands of the first product: all, or where registers are too few one step's at a time.
  struct Query {
    uint32_t steps[Tile::kQueryInRegisters ? kQuerySteps : 1][4];
  };
  // Weights rounded to T: a weight's place as a result of the first product is its place as an
  // operand of the second.
  struct Weights {
    uint32_t steps[kKeySteps][4];
  };

  static __device__ __forceinline__ int32_t result_column(int n, int32_t lane) {
    return 8 * n + 2 * (lane % 4);
  }

  static __device__ __forceinline__ void load_query(const T* rows, int32_t lane, Query& query) {
    if constexpr (Tile::kQueryInRegisters) {
#pragma unroll
      for (int step = 0; step < kQuerySteps; ++step) {
        load_query_step(rows, step, lane, query.steps[step]);
      }
    }
  }

  static __device__ __forceinline__ void multiply_keys(const T* query_rows, Query& query,
                                                       const T* keys, int32_t lane,
                                                       float (&scores)[Tile::kKeys / 8][4]) {
#pragma unroll
    for (int n = 0; n < Tile::kKeys / 8; ++n) {
      for (float& score : scores[n]) score = 0;
    }
    // Matrices of a load: keys 0..7 and 8..15 of sixteen, each as columns 0..7 and 8..15.
    const T* rows = keys + (lane % 8 + lane / 16 * 8) * Tile::kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int step = 0; step < kQuerySteps; ++step) {
      uint32_t (&a)[4] = query.steps[Tile::kQueryInRegisters ? step : 0];
      if constexpr (!Tile::kQueryInRegisters) load_query_step(query_rows, step, lane, a);
#pragma unroll
      for (int n = 0; n < kKeySteps; ++n) {
        uint32_t loaded[4];
        load_matrix_x4(loaded, rows + 16 * n * Tile::kStride + 16 * step);
        multiply_both(scores[2 * n], scores[2 * n + 1], a, loaded);
      }
    }
  }

  static __device__ __forceinline__ void keep_weights(const float (&scores)[Tile::kKeys / 8][4],
                                                      Weights& weights) {
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&source)[4] = scores[2 * step + i / 2];
        weights.steps[step][i] = pack2<T>(source[i % 2 * 2], source[i % 2 * 2 + 1]);
      }
    }
  }

  static __device__ __forceinline__ void multiply_values(const Weights& weights, const T* values,
                                                         int32_t lane,
                                                         float (&result)[Tile::kHeadSize / 8][4]) {
    // Matrices of a load, transposed: keys 0..7 and 8..15 of columns 0..7, then of columns 8..15.
    const T* rows = values + lane % 16 * Tile::kStride + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
#pragma unroll
      for (int n = 0; n < Tile::kHeadSize / 16; ++n) {
        uint32_t loaded[4];
        load_matrix_x4_transposed(loaded, rows + 16 * step * Tile::kStride + 16 * n);
        multiply_both(result[2 * n], result[2 * n + 1], weights.steps[step], loaded);
      }
    }
  }

 private:
  // Columns 16 * step to 16 * step + 15 of the warp's queries, a 16 x 16 matrix.
  static __device__ __forceinline__ void load_query_step(const T* rows, int step, int32_t lane,
                                                         uint32_t (&fragment)[4]) {
    load_matrix_x4(fragment, rows + lane % 16 * Tile::kStride + 16 * step + lane / 16 * 8);
  }

  static __device__ __forceinline__ void multiply_both(float (&low)[4], float (&high)[4],
                                                       const uint32_t (&a)[4],
                                                       const uint32_t (&loaded)[4]) {
    multiply_add_16x8x16<T>(low, a, {loaded[0], loaded[1]});
    multiply_add_16x8x16<T>(high, a, {loaded[2], loaded[3]});
  }
};

}  // namespace reformer::cuda
