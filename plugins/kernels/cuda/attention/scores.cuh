// Masks and softmax on tiles of 16 rows of scores, in base 2, spread over a warp's lanes as the
// matrix steps leave them: lane l has rows l / 4 and l / 4 + 8, and of every 8 columns 2 * (l % 4)
// and the next.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/base2.h"
#include "kernels/cuda/attention/keys.cuh"
#include "kernels/cuda/attention/tile.cuh"

namespace reformer::cuda {

constexpr float kMaskedLogit = -1e9f;  // design contract, as in HF eager
constexpr float kMaskedScore = kMaskedLogit * kLog2E;

template <typename Value>
struct alignas(8) ColumnPair {
  Value at[2];
};

// The softmax of a lane's two rows, so far.
struct RowState {
  float max[2] = {-kInfinity, -kInfinity};
  float sum[2] = {};  // this lane's columns only
};

// Where a lane's two rows are, and what they may see. Read again for every tile: registers are
// scarcer.
struct RowPositions {
  int32_t position[2];
  int32_t limit[2];  // the last position that is visible
};

__device__ __forceinline__ RowPositions load_positions(const int32_t* tile_positions, bool causal,
                                                       int32_t lane) {
  RowPositions rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rows.position[r] = tile_positions[lane / 4 + 8 * r];
    rows.limit[r] = causal ? rows.position[r] : kNoLimit;
  }
  return rows;
}

// Products become scores: scaled, or the listed value where the key is hidden.
template <int kRowTiles, int kTiles>
__device__ __forceinline__ void mask_scores(const RowPositions (&rows)[kRowTiles],
                                            const int32_t* visible, const float* scales,
                                            int32_t lane, float (&scores)[kRowTiles][kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int32_t column = 8 * n + 2 * (lane % 4);
    const auto from = *reinterpret_cast<const ColumnPair<int32_t>*>(visible + column);
    const auto scale = *reinterpret_cast<const ColumnPair<float>*>(scales + column);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool hidden = from.at[i % 2] > rows[m].limit[i / 2];
        scores[m][n][i] = hidden ? kMaskedScore : scores[m][n][i] * scale.at[i % 2];
      }
    }
  }
}

// A position avoids itself, whatever its mask says: wherever it is listed.
template <int kRowTiles, int kTiles>
__device__ __forceinline__ void avoid_position(const RowPositions (&rows)[kRowTiles],
                                               const int32_t* positions, float self_score,
                                               int32_t lane,
                                               float (&scores)[kRowTiles][kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int32_t column = 8 * n + 2 * (lane % 4);
    const auto position = *reinterpret_cast<const ColumnPair<int32_t>*>(positions + column);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (position.at[i % 2] == rows[m].position[i / 2]) scores[m][n][i] = self_score;
      }
    }
  }
}

// The same where the rows are columns `first_column` to `first_column` + 15 of the tile of keys and
// their positions are listed nowhere else: two diagonals of 8 x 8.
template <int kTiles>
__device__ __forceinline__ void avoid_diagonal(int32_t first_column, float self_score, int32_t lane,
                                               float (&scores)[kTiles][4]) {
  const int32_t place = lane / 4 - 2 * (lane % 4);  // of the diagonal among a lane's two columns
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (8 * (n - r) != first_column) continue;  // alike in all lanes
      if (place == 0) scores[n][2 * r] = self_score;
      if (place == 1) scores[n][2 * r + 1] = self_score;
    }
  }
}

// Places behind the last of `columns` keys weigh nothing, not even in a row that sees nothing.
template <int kRowTiles, int kTiles>
__device__ __forceinline__ void clear_scores(int32_t columns, int32_t lane,
                                             float (&scores)[kRowTiles][kTiles][4]) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (8 * n + 2 * (lane % 4) + i % 2 >= columns) scores[m][n][i] = -kInfinity;
      }
    }
  }
}

// The four lanes of a row agree on its largest value, or on its sum.
__device__ __forceinline__ float max_of_row(float value) {
  value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, 1));
  return fmaxf(value, __shfl_xor_sync(kFullWarp, value, 2));
}
__device__ __forceinline__ float sum_of_row(float value) {
  value += __shfl_xor_sync(kFullWarp, value, 1);
  return value + __shfl_xor_sync(kFullWarp, value, 2);
}

// Scores become weights 2^(score - max); the rows' maximum and sum take them in. Returns by how
// much what was added up so far shrinks to the new maximum.
template <int kTiles>
__device__ __forceinline__ ColumnPair<float> weigh_scores(RowState& rows,
                                                          float (&scores)[kTiles][4]) {
  ColumnPair<float> shrink;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float highest = rows.max[r];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      highest = fmaxf(highest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    }
    highest = max_of_row(highest);
    shrink.at[r] = exp2_approximate(rows.max[r] - highest);
    rows.max[r] = highest;
    rows.sum[r] *= shrink.at[r];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float weight = exp2_approximate(scores[n][2 * r + c] - highest);
        scores[n][2 * r + c] = weight;
        rows.sum[r] += weight;
      }
    }
  }
  return shrink;
}

template <int kResults>
__device__ __forceinline__ void shrink_result(const ColumnPair<float>& shrink,
                                              float (&result)[kResults][4]) {
#pragma unroll
  for (int n = 0; n < kResults; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) result[n][i] *= shrink.at[i / 2];
  }
}

// A finished row: its logsumexp, and the factor of its result. The logsumexp is rounded to float32
// and then subtracted, as the contract wants: the weights of a row that sees only itself then do
// not add up to 1.
struct RowEnd {
  float lse;  // natural logarithm
  float factor;
};

template <typename T>
__device__ __forceinline__ RowEnd finish_row(const AttentionArguments<T>& arguments, float max,
                                             float sum) {
  // max ln(2), and what that product's rounding lost: a large maximum leaves it no digits to spare.
  float highest = max * kLn2;
  float lost = fmaf(max, kLn2, -highest) + max * kLn2Rest;
  if (max == kMaskedScore || max == arguments.self_score) {
    highest = max == kMaskedScore ? kMaskedLogit : arguments.self_logit;
    lost = 0;
  }
  const float lse = highest + (lost + __logf(sum));
  return {lse, __expf(highest - lse + lost)};
}

}  // namespace reformer::cuda
