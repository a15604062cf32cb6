// How the attention kernel is cut: tile sizes for an element type and head size, and where things
// lie in shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/plan.h"
#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

// Tiles whose positions and scales are held: the one in use, and those being prepared.
constexpr int kMetadataTiles = 4;

template <typename Element, int kSize>
struct AttentionTile {
  using T = Element;
  static constexpr int kHeadSize = kSize;  // elements of a row, padded with zeros
  static constexpr bool kHalf = sizeof(T) == 2;

  // Keys of a tile, and slots for tiles of keys or values: as much as lets three blocks share a
  // multiprocessor of 100 KB (compute capability 8.6, 8.9, 12.0) up to 64 elements of 16 bits, two
  // up to 128 of them or 64 of 32 bits, and fits one at 256.
  static constexpr int kKeys =
      kHalf ? (kSize <= 128 ? 64 : 32) : (kSize <= 32 ? 64 : (kSize <= 128 ? 32 : 16));
  static constexpr int kSlots = kHalf && kSize <= 64 ? 3 : 2;

  // 16 bytes more than a row: eight consecutive rows then start in different banks, which is what
  // ldmatrix and 16-byte loads down a column need.
  static constexpr int kVector = 16 / sizeof(T);       // elements moved at a time
  static constexpr int kStride = kSize + kVector;      // elements from row to row
  static constexpr int kRowVectors = kSize / kVector;  // 16-byte pieces of a row; a warp moves
                                                       // kLaneVectors of it at a time
  static constexpr int kLaneVectors = kRowVectors < kWarpSize ? kRowVectors : kWarpSize;
  static constexpr int kSlotElements = kKeys * kStride;

  // Queries stay in registers where these suffice; otherwise every tile reads them again.
  static constexpr bool kQueryInRegisters = kHalf && kSize <= 128;

  // Blocks a multiprocessor of 64 K registers should hold: the bound on registers a thread.
  static constexpr int kMinBlocks =
      kHalf ? (kSize <= 64 ? 4 : (kSize == 128 ? 3 : 2)) : (kSize <= 64 ? 3 : 2);
};

template <typename Tile>
struct AttentionShared {
  typename Tile::T* query;   // [kQueryRows, kStride], if holds_queries
  typename Tile::T* slots;   // [slots, kKeys, kStride]
  int32_t* key_positions;    // [kMetadataTiles, kKeys]
  int32_t* key_visible;      // the same: the position from which on queries may see the key
  float* key_scales;         // the same: factor of the key's products
  int32_t* query_positions;  // [kQueryRows]
};

template <typename Tile>
constexpr size_t measure_shared(const AttentionPlan& plan) {
  const size_t rows =
      static_cast<size_t>((plan.holds_queries ? kQueryRows : 0) + plan.slots * Tile::kKeys);
  return rows * Tile::kStride * sizeof(typename Tile::T) +
         static_cast<size_t>(3 * kMetadataTiles * Tile::kKeys + kQueryRows) * 4;
}

template <typename Tile>
__device__ __forceinline__ AttentionShared<Tile> layout_shared(const AttentionPlan& plan) {
  constexpr int kEntries = kMetadataTiles * Tile::kKeys;
  AttentionShared<Tile> shared;
  shared.query = reinterpret_cast<typename Tile::T*>(dynamic_shared());
  shared.slots = shared.query + (plan.holds_queries ? kQueryRows * Tile::kStride : 0);
  shared.key_positions =
      reinterpret_cast<int32_t*>(shared.slots + plan.slots * Tile::kSlotElements);
  shared.key_visible = shared.key_positions + kEntries;
  shared.key_scales = reinterpret_cast<float*>(shared.key_visible + kEntries);
  shared.query_positions = reinterpret_cast<int32_t*>(shared.key_scales + kEntries);
  return shared;
}

}  // namespace reformer::cuda
