// The matrix products of float32, in its accuracy: three products of TF32 parts (products.cuh).
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/matrix.cuh"
#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// Four neighbouring columns of a row, or two.
template <int kCount>
struct alignas(4 * kCount) Columns {
  float at[kCount];
};

template <typename Tile>
struct MatrixSteps<Tile, false> {
  static constexpr int kRowTiles = Tile::kRowTiles;
  static constexpr int kKeyTiles = Tile::kKeys / 8;
  // Tiles of 8 columns of a result whose values a lane loads together, as neighbouring columns: 4
  // where registers suffice.
  static constexpr int kGroup = Tile::kHeadSize == 16 || Tile::kHeadSize == 256 ? 2 : 4;
  // Whether corrections of values are added up apart, and not with the sums: registers again. The
  // sums of a tile of keys are then rounded towards zero three times as often, 12 times in all.
  static constexpr bool kApart = Tile::kHeadSize != 64;
  using Scores = float[kRowTiles][kKeyTiles][4];
  using Result = float[kRowTiles][Tile::kHeadSize / 8][4];

  struct Query {};
  // Split: a weight's place as a result of the first product is its place as an operand of the
  // second, whose keys 2t and 2t + 1 of eight therefore take places t and t + 4.
  struct Weights {
    SplitOperand<4> steps[kRowTiles][kKeyTiles];
  };

  static __device__ __forceinline__ void load_query(const float*, int32_t, Query&) {}

  static __device__ __forceinline__ void multiply_keys(const float* query_rows, Query&,
                                                       const float* keys, int32_t lane,
                                                       Scores& scores) {
    clear_sums(scores);
#pragma unroll 1
    for (int first = 0; first < Tile::kHeadSize; first += kSumElements) {
      Scores sums, corrections;
      clear_sums(sums);
      clear_sums(corrections);
#pragma unroll(kRowTiles == 1 ? 4 : 1)
      for (int step = 0; step < kSumElements / 8; ++step) {
        multiply_step(query_rows + first + 8 * step, keys + first + 8 * step, lane, sums,
                      corrections);
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) scores[m][n][i] += sums[m][n][i] + corrections[m][n][i];
        }
      }
    }
  }

  static __device__ __forceinline__ void keep_weights(const Scores& scores, Weights& weights) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        const float (&pair)[4] = scores[m][n];
        weights.steps[m][n] = split_operand({pair[0], pair[2], pair[1], pair[3]});
      }
    }
  }

  // Lane l's columns of group q are 4 * kGroup * q + 2 * kGroup * (l % 4) and the following:
  // result[kGroup * q + j][0] is the j-th of the first kGroup of them, [1] of the next.
  static __device__ __forceinline__ void multiply_values(const Weights& weights,
                                                         const float* values, int32_t lane,
                                                         Result& result) {
    const float* rows = values + 2 * (lane % 4) * Tile::kStride + kGroup * (lane / 4);
#pragma unroll
    for (int first = 0; first < Tile::kHeadSize / 8; first += kGroup) {
      float sums[kRowTiles][kGroup][4] = {};
      float corrections[kApart ? kRowTiles : 1][kGroup][4] = {};
#pragma unroll
      for (int step = 0; step < kKeyTiles; ++step) {
        const float* row = rows + 8 * step * Tile::kStride + 8 * first;
        const auto even = *reinterpret_cast<const Columns<kGroup>*>(row);
        const auto odd = *reinterpret_cast<const Columns<kGroup>*>(row + Tile::kStride);
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
          const SplitOperand<2> b = split_operand({even.at[j], odd.at[j]});
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            multiply_add_16x8x8(sums[m][j], kApart ? corrections[m][j] : sums[m][j],
                                weights.steps[m][step], b);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            result[m][first + j][i] += sums[m][j][i] + (kApart ? corrections[m][j][i] : 0);
          }
        }
      }
    }
  }

  static __device__ __forceinline__ void store_row(const float (&result)[Tile::kHeadSize / 8][4],
                                                   int r, float factor, int32_t lane, float* row) {
#pragma unroll
    for (int first = 0; first < Tile::kHeadSize / 8; first += kGroup) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        Columns<kGroup> columns;
#pragma unroll
        for (int j = 0; j < kGroup; ++j) columns.at[j] = result[first + j][2 * r + c] * factor;
        *reinterpret_cast<Columns<kGroup>*>(row + 8 * first + kGroup * (2 * (lane % 4) + c)) =
            columns;
      }
    }
  }

 private:
  // Products are added up in pieces of a row: a long sum loses digits that the logits then lack.
  static constexpr int kSumElements = Tile::kHeadSize <= 64 ? Tile::kHeadSize : 32;

  static __device__ __forceinline__ void clear_sums(Scores& sums) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        for (float& sum : sums[m][n]) sum = 0;
      }
    }
  }

  static __device__ __forceinline__ SplitOperand<2> split_pair(uint32_t low, uint32_t high) {
    return split_operand({__uint_as_float(low), __uint_as_float(high)});
  }

  // sums + corrections += query . keys over eight elements, from `query` and `keys` on.
  static __device__ __forceinline__ void multiply_step(const float* query, const float* keys,
                                                       int32_t lane, Scores& sums,
                                                       Scores& corrections) {
    uint32_t bits[4];
    SplitOperand<4> a[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      load_matrix_x4(bits, query + (16 * m + lane % 16) * Tile::kStride + lane / 16 * 4);
      a[m] = split_operand({__uint_as_float(bits[0]), __uint_as_float(bits[1]),
                            __uint_as_float(bits[2]), __uint_as_float(bits[3])});
    }
    const auto multiply = [&](int n, const SplitOperand<2>& b) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        multiply_add_16x8x8(sums[m][n], corrections[m][n], a[m], b);
      }
    };
    if constexpr (kKeyTiles == 1) {
      const float* key = keys + lane / 4 * Tile::kStride + lane % 4;
      multiply(0, split_operand({key[0], key[4]}));
    } else {
      // Matrices of a load: keys 0..7 and 8..15 of sixteen, each as elements 0..3 and 4..7.
      const float* rows = keys + (lane % 8 + lane / 16 * 8) * Tile::kStride + lane / 8 % 2 * 4;
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        load_matrix_x4(bits, rows + 8 * n * Tile::kStride);
        multiply(n, split_pair(bits[0], bits[1]));
        multiply(n + 1, split_pair(bits[2], bits[3]));
      }
    }
  }
};

}  // namespace reformer::cuda
