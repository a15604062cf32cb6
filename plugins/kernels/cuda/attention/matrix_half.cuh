// The matrix products of 16-bit elements, with float32 sums.
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

  static constexpr int kRowTiles = Tile::kRowTiles;
  using Scores = float[kRowTiles][Tile::kKeys / 8][4];
  using Result = float[kRowTiles][Tile::kHeadSize / 8][4];

  // Operands of the first product: all, or where registers are too few one step's at a time.
  struct Query {
    uint32_t steps[kRowTiles][Tile::kQueryInRegisters ? kQuerySteps : 1][4];
  };
  // Weights rounded to T: a weight's place as a result of the first product is its place as an
  // operand of the second.
  struct Weights {
    uint32_t steps[kRowTiles][kKeySteps][4];
  };

  static __device__ __forceinline__ void load_query(const T* rows, int32_t lane, Query& query) {
    if constexpr (Tile::kQueryInRegisters) {
#pragma unroll
      for (int step = 0; step < kQuerySteps; ++step) load_query_step(rows, step, lane, query, step);
    }
  }

  static __device__ __forceinline__ void multiply_keys(const T* query_rows, Query& query,
                                                       const T* keys, int32_t lane,
                                                       Scores& scores) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < Tile::kKeys / 8; ++n) {
        for (float& score : scores[m][n]) score = 0;
      }
    }
    // Matrices of a load: keys 0..7 and 8..15 of sixteen, each as columns 0..7 and 8..15.
    const T* rows = keys + (lane % 8 + lane / 16 * 8) * Tile::kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int step = 0; step < kQuerySteps; ++step) {
      const int place = Tile::kQueryInRegisters ? step : 0;
      if constexpr (!Tile::kQueryInRegisters) load_query_step(query_rows, step, lane, query, place);
#pragma unroll
      for (int n = 0; n < kKeySteps; ++n) {
        uint32_t loaded[4];
        load_matrix_x4(loaded, rows + 16 * n * Tile::kStride + 16 * step);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_both(scores[m][2 * n], scores[m][2 * n + 1], query.steps[m][place], loaded);
        }
      }
    }
  }

  static __device__ __forceinline__ void keep_weights(const Scores& scores, Weights& weights) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int step = 0; step < kKeySteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float (&source)[4] = scores[m][2 * step + i / 2];
          weights.steps[m][step][i] = pack2<T>(source[i % 2 * 2], source[i % 2 * 2 + 1]);
        }
      }
    }
  }

  static __device__ __forceinline__ void multiply_values(const Weights& weights, const T* values,
                                                         int32_t lane, Result& result) {
    // Matrices of a load, transposed: keys 0..7 and 8..15 of columns 0..7, then of columns 8..15.
    const T* rows = values + lane % 16 * Tile::kStride + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < kKeySteps; ++step) {
#pragma unroll
      for (int n = 0; n < Tile::kHeadSize / 16; ++n) {
        uint32_t loaded[4];
        load_matrix_x4_transposed(loaded, rows + 16 * step * Tile::kStride + 16 * n);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_both(result[m][2 * n], result[m][2 * n + 1], weights.steps[m][step], loaded);
        }
      }
    }
  }

  static __device__ __forceinline__ void store_row(const float (&result)[Tile::kHeadSize / 8][4],
                                                   int r, float factor, int32_t lane, T* row) {
#pragma unroll
    for (int n = 0; n < Tile::kHeadSize / 8; ++n) {
      *reinterpret_cast<uint32_t*>(row + 8 * n + 2 * (lane % 4)) =
          pack2<T>(result[n][2 * r] * factor, result[n][2 * r + 1] * factor);
    }
  }

 private:
  // Columns 16 * step to 16 * step + 15 of the warp's queries: a 16 x 16 matrix of each tile of
  // rows.
  static __device__ __forceinline__ void load_query_step(const T* rows, int step, int32_t lane,
                                                         Query& query, int place) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      load_matrix_x4(query.steps[m][place],
                     rows + (16 * m + lane % 16) * Tile::kStride + 16 * step + lane / 16 * 8);
    }
  }

  static __device__ __forceinline__ void multiply_both(float (&low)[4], float (&high)[4],
                                                       const uint32_t (&a)[4],
                                                       const uint32_t (&loaded)[4]) {
    multiply_add_16x8x16<T>(low, a, {loaded[0], loaded[1]});
    multiply_add_16x8x16<T>(high, a, {loaded[2], loaded[3]});
  }
};

}  // namespace reformer::cuda
