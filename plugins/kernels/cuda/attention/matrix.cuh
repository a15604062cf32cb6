// The two matrix products of a warp: its queries with a tile of keys, and their weights with the
// tile's values. One specialisation is for 16-bit elements, the other for float32.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/tile.cuh"

namespace reformer::cuda {

// In both, lane l has rows l / 4 and l / 4 + 8 of each tile m of 16 rows: scores[m][n][0], [1] of
// the first, [2], [3] of the second, columns 8n + 2 * (l % 4) and the next. Which columns of a
// result a lane has is the specialisation's own affair.
//
//   Query             what is kept of the queries in registers
//   Weights           what is kept of the softmax weights until the values have come
//   load_query        fills a Query
//   multiply_keys     scores = query . keys
//   keep_weights      fills Weights
//   multiply_values   result += weights . values
//   store_row         a lane's part of row l / 4 + 8r of a result, times `factor`, to that row
template <typename Tile, bool kHalf = Tile::kHalf>
struct MatrixSteps;

}  // namespace reformer::cuda
