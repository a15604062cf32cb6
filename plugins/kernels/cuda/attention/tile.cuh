// How the attention kernel is cut: tile sizes for an element type and head size, and where things
// lie in shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/plan.h"
#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// Tiles whose positions and scales are held: the one in use, and those being prepared.
constexpr int kMetadataTiles = 4;

template <typename Element, int kSize>
struct AttentionTile {
  using T = Element;
  static constexpr int kHeadSize = kSize;  // elements of a row, padded with zeros
  static constexpr bool kHalf = sizeof(T) == 2;

  static constexpr int kRowBytes = static_cast<int>(sizeof(T)) * kSize;

  // A block's queries: its warps, and tiles of 16 rows of each. Two tiles of rows share every
  // fragment of keys and values that a warp loads, as far as registers go.
  static constexpr int kRowTiles = kSize <= 64 ? 2 : 1;
  static constexpr int kWarps = kRowTiles == 2 || kRowBytes > 512 ? 2 : 4;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kQueryRows = kWarps * kWarpRows;
  static constexpr int kThreads = kWarps * kWarpSize;

  // Keys of a tile, and slots for tiles of keys or values: what fits 64 KB, which is all that a
  // block gets on compute capability 7.5, and lets three blocks share a multiprocessor of 100 KB
  // (8.6, 8.9, 12.0) up to 64 elements of 16 bits, two up to 128 of them or 64 of 32 bits.
  static constexpr int kKeys = kRowBytes > 512 ? 8 : (kRowBytes == 512 ? 16 : (kHalf ? 64 : 32));
  static constexpr int kSlots = kRowBytes >= 512 ? 3 : 2;

  // 16 bytes more than a row: eight consecutive rows then start in different banks, which is what
  // ldmatrix and 16-byte loads down a column need.
  static constexpr int kVector = 16 / sizeof(T);       // elements moved at a time
  static constexpr int kStride = kSize + kVector;      // elements from row to row
  static constexpr int kRowVectors = kSize / kVector;  // 16-byte pieces of a row; a warp moves
                                                       // kLaneVectors of it at a time
  static constexpr int kLaneVectors = kRowVectors < kWarpSize ? kRowVectors : kWarpSize;
  static constexpr int kSlotElements = kKeys * kStride;

  // Queries stay in registers where shared memory is scarcer; otherwise every tile of keys reads
  // them again.
  static constexpr bool kQueryInRegisters = kHalf && kSize == 128;
  // Whether the positions of all of a block's own rows are known when its copies start: an LSH
  // block's queries are then its first keys as well.
  static constexpr bool kKnowsOwnKeys = kQueryRows <= 2 * kKeys;

  // Blocks a multiprocessor should hold: the bound on registers. Each of its four parts has 16 K of
  // them, for two warps of up to 255 or for three of up to 168. Turing's shared memory has no room
  // for more blocks than the former allows.
  static constexpr int kMinBlocks =
      kForTuring ? 1 : (kWarps == 2 ? (kHalf ? 6 : 4) : (kSize == 128 ? 3 : 2));
};

template <typename Tile>
struct AttentionShared {
  typename Tile::T* query;   // [kQueryRows, kStride], if plan.query_rows
  typename Tile::T* slots;   // [slots, kKeys, kStride]
  int32_t* key_positions;    // [kMetadataTiles, kKeys]
  int32_t* key_visible;      // the same: the position from which on queries may see the key
  float* key_scales;         // the same: factor of the key's products
  int32_t* query_positions;  // [kQueryRows]
};

template <typename Tile>
constexpr size_t measure_shared(const AttentionPlan& plan) {
  const size_t rows = static_cast<size_t>(plan.query_rows + plan.slots * Tile::kKeys);
  return rows * Tile::kStride * sizeof(typename Tile::T) +
         static_cast<size_t>(3 * kMetadataTiles * Tile::kKeys + Tile::kQueryRows) * 4;
}

template <typename Tile>
__device__ __forceinline__ AttentionShared<Tile> layout_shared(const AttentionPlan& plan) {
  constexpr int kEntries = kMetadataTiles * Tile::kKeys;
  AttentionShared<Tile> shared;
  shared.query = reinterpret_cast<typename Tile::T*>(dynamic_shared());
  shared.slots = shared.query + plan.query_rows * Tile::kStride;
  shared.key_positions =
      reinterpret_cast<int32_t*>(shared.slots + plan.slots * Tile::kSlotElements);
  shared.key_visible = shared.key_positions + kEntries;
  shared.key_scales = reinterpret_cast<float*>(shared.key_visible + kEntries);
  shared.query_positions = reinterpret_cast<int32_t*>(shared.key_scales + kEntries);
  return shared;
}

}  // namespace reformer::cuda
