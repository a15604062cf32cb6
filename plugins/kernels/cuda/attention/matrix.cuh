// The two matrix products of a warp: its 16 queries with a tile of keys, and their weights with the
// tile's values. One specialisation has tensor cores for 16-bit elements, the other does without.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/tile.cuh"

namespace reformer::cuda {

// In both, lane l has rows l / 4 and l / 4 + 8: scores[n][0], [1] of the first, [2], [3] of the
// second, columns 8n + 2 * (l % 4) and the next; result[n] the same, but for the columns.
//
//   Query             what is kept of the queries in registers
//   Weights           what is kept of the softmax weights until the values have come
//   load_query        fills a Query
//   multiply_keys     scores = query . keys
//   keep_weights      fills Weights
//   multiply_values   result += weights . values
//   result_column     the first of a lane's two columns in result[n]
template <typename Tile, bool kHalf = Tile::kHalf>
struct MatrixSteps;

}  // namespace reformer::cuda
