// Hashing of float16 and bfloat16 tokens on tensor cores. A warp keeps its tokens in registers as
// the left operand; tiles of packed rotations pass through two stages of shared memory. The
// products with the rotations' parts add up in float32 and go straight into the running argmax.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/sizes.h"
#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/hash/columns.cuh"
#include "kernels/cuda/hash/pack.cuh"

namespace reformer::cuda {

template <typename Element, int kSize>
struct HashTile {
  using T = Element;
  static constexpr int kHeadSize = kSize;  // padded
  static constexpr int kParts = HashPacking<T>::kParts;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kWarpSize;
  // Two tiles of rows a warp share every fragment of the rotations, as far as registers go.
  static constexpr int kRowTiles = kSize <= 128 ? 2 : 1;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kColumns = kSize <= 128 ? 32 : 16;  // of a stage
  static constexpr int kSteps = kSize / 16;                // along the head size
  // 16 bytes more than a row: ldmatrix then finds eight rows in different banks.
  static constexpr int kStride = kSize + 8;
  static constexpr int kStageElements = kParts * kColumns * kStride;
  static constexpr size_t kSharedBytes =
      static_cast<size_t>(std::max(kRows * kStride, 2 * kStageElements)) * sizeof(T);
  // Blocks a multiprocessor should hold: the bound on registers.
  static constexpr int kMinBlocks = kSize <= 64 ? 4 : 3;
  static_assert(HashPacking<T>::kColumnTile % kColumns == 0, "packed columns are whole stages");
};

// The block's tokens, [kRows, kStride], zero where no token or element is.
template <typename Tile>
__device__ __forceinline__ void load_tokens(const HashArguments<typename Tile::T>& arguments,
                                            const HashBlock& block, typename Tile::T* target) {
  using T = typename Tile::T;
  const int head_size = static_cast<int>(arguments.head_size);
  const int thread = static_cast<int>(threadIdx.x);
  if (arguments.vector_rows) {
    constexpr int kPieces = Tile::kHeadSize / 8;
    for (int i = thread; i < Tile::kRows * kPieces; i += Tile::kThreads) {
      const int64_t position = block.first + i / kPieces;
      const int column = i % kPieces * 8;
      copy_async_16(target + i / kPieces * Tile::kStride + column,
                    find_row(arguments, block, position) + column,
                    position < arguments.length && column < head_size);
    }
  } else {
    for (int i = thread; i < Tile::kRows * Tile::kHeadSize; i += Tile::kThreads) {
      const int64_t position = block.first + i / Tile::kHeadSize;
      const int column = i % Tile::kHeadSize;
      const bool exists = position < arguments.length && column < head_size;
      target[i / Tile::kHeadSize * Tile::kStride + column] =
          exists ? find_row(arguments, block, position)[column] : T{0};
    }
  }
  commit_copies();
}

// Starts copying a tile of packed rotations to a stage, [kParts, kColumns, kStride].
template <typename Tile>
__device__ __forceinline__ void start_stage(const HashArguments<typename Tile::T>& arguments,
                                            int32_t head, int64_t tile, typename Tile::T* stage) {
  using T = typename Tile::T;
  constexpr int kPieces = Tile::kHeadSize / 8;
  const Global<const T> source =
      arguments.packed +
      (head * Tile::kParts * arguments.padded_columns + tile * Tile::kColumns) * Tile::kHeadSize;
  const int64_t part_stride = arguments.padded_columns * Tile::kHeadSize;
#pragma unroll
  for (int part = 0; part < Tile::kParts; ++part) {
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kColumns * kPieces; i += Tile::kThreads) {
      const int column = i / kPieces;
      const int k = i % kPieces * 8;
      copy_async_16(stage + (part * Tile::kColumns + column) * Tile::kStride + k,
                    source + part * part_stride + column * Tile::kHeadSize + k, true);
    }
  }
  commit_copies();
}

// A warp's tokens as left operands of the matrix steps.
template <typename Tile>
struct TokenFragments {
  uint32_t a[Tile::kRowTiles][Tile::kSteps][4];

  // tokens: the warp's rows, [kWarpRows, kStride].
  __device__ __forceinline__ void load(const typename Tile::T* tokens) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int row = lane % 16;
    const int column = lane / 16 * 8;
#pragma unroll
    for (int m = 0; m < Tile::kRowTiles; ++m) {
#pragma unroll
      for (int step = 0; step < Tile::kSteps; ++step) {
        load_matrix_x4(a[m][step], tokens + (16 * m + row) * Tile::kStride + 16 * step + column);
      }
    }
  }
};

// The warp's products with one group of columns of a stage.
template <typename Tile>
__device__ __forceinline__ void multiply_group(const TokenFragments<Tile>& tokens,
                                               const typename Tile::T* stage, int group,
                                               float (&d)[Tile::kRowTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int m = 0; m < Tile::kRowTiles; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[m][i] = 0;
  }
  // The smallest parts first.
#pragma unroll
  for (int part = Tile::kParts - 1; part >= 0; --part) {
    const int column = part * Tile::kColumns + group * kHashGroup + lane % 8;
    const typename Tile::T* row = stage + column * Tile::kStride + lane / 8 * 8;
#pragma unroll
    for (int step = 0; step < Tile::kSteps; step += 2) {
      uint32_t b[4];  // two steps of the right operand
      load_matrix_x4(b, row + 16 * step);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < Tile::kRowTiles; ++m) {
        multiply_add_16x8x16<typename Tile::T>(d[m], tokens.a[m][step], first);
        multiply_add_16x8x16<typename Tile::T>(d[m], tokens.a[m][step + 1], second);
      }
    }
  }
}

// A lane's share of the warp's rows: lane / 4 and lane / 4 + 8 of every row tile, of which four
// lanes have two columns of a group each.
template <typename Tile>
class WarpBuckets {
 public:
  __device__ __forceinline__ void add_group(const float (&d)[Tile::kRowTiles][4],
                                            const ColumnWalk& walk) {
    const int32_t column = walk.first() + 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (column + i < walk.half_size()) {
          choices_[row].add(d[row / 2][2 * (row % 2) + i], column + i);
        }
      }
    }
  }

  // The last group of a factor was added: four lanes agree on each row's choice.
  __device__ __forceinline__ void end_factor(const ColumnWalk& walk) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      RunningChoice& choice = choices_[row];
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float highest = __shfl_xor_sync(kFullWarp, choice.highest, step);
        const int32_t highest_at = __shfl_xor_sync(kFullWarp, choice.highest_at, step);
        const float lowest = __shfl_xor_sync(kFullWarp, choice.lowest, step);
        const int32_t lowest_at = __shfl_xor_sync(kFullWarp, choice.lowest_at, step);
        choice.merge(highest, highest_at, lowest, lowest_at);
      }
      buckets_[row] += walk.stride() * choice.choose(walk.half_size());
      choice = RunningChoice();
    }
  }

  // Writes the round's buckets. `first` is the warp's first position.
  __device__ __forceinline__ void end_round(const HashArguments<typename Tile::T>& arguments,
                                            const HashBlock& block, int64_t round, int64_t first) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      // All four lanes have the bucket; they share the rows' writing.
      if (lane % 4 == row % 4) {
        store_bucket(arguments, block, round, first + lane / 4 + 8 * row, buckets_[row]);
      }
      buckets_[row] = 0;
    }
  }

 private:
  static constexpr int kRows = 2 * Tile::kRowTiles;

  RunningChoice choices_[kRows];
  int32_t buckets_[kRows] = {};
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kMinBlocks)
    hash_tokens(const HashArguments<typename Tile::T> arguments, int blocks_per_head) {
  using T = typename Tile::T;
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  const HashBlock block = locate_hash_block(arguments, blocks_per_head, Tile::kRows);
  const int warp_row = static_cast<int>(threadIdx.x) / kWarpSize * Tile::kWarpRows;
  load_tokens<Tile>(arguments, block, shared);
  wait_copies<0>();
  __syncthreads();
  TokenFragments<Tile> tokens;
  tokens.load(shared + warp_row * Tile::kStride);
  __syncthreads();  // the stages take the tokens' place
  start_stage<Tile>(arguments, block.head, 0, shared);
  WarpBuckets<Tile> buckets;
  ColumnWalk walk(arguments.factors, arguments.rounds);
  for (int64_t tile = 0; !walk.is_done(); ++tile) {
    wait_copies<0>();
    __syncthreads();  // the tile is there, and everybody is done with the one before it
    if ((tile + 1) * Tile::kColumns < arguments.padded_columns) {
      start_stage<Tile>(arguments, block.head, tile + 1,
                        shared + (tile + 1) % 2 * Tile::kStageElements);
    }
    const T* stage = shared + tile % 2 * Tile::kStageElements;
    for (int group = 0; group < Tile::kColumns / kHashGroup && !walk.is_done(); ++group) {
      float d[Tile::kRowTiles][4];
      multiply_group<Tile>(tokens, stage, group, d);
      buckets.add_group(d, walk);
      if (walk.ends_factor()) buckets.end_factor(walk);
      if (walk.ends_round()) {
        buckets.end_round(arguments, block, walk.round(), block.first + warp_row);
      }
      walk.advance();
    }
  }
}

template <typename Tile>
reformer_status launch_tile(const HashArguments<typename Tile::T>& arguments, void* stream) {
  const int64_t blocks_per_head = divide_up<int64_t>(arguments.length, Tile::kRows);
  return launch(hash_tokens<Tile>, arguments.batch * arguments.heads * blocks_per_head,
                Tile::kThreads, Tile::kSharedBytes, stream, arguments,
                static_cast<int>(blocks_per_head));
}

template <typename T>
reformer_status launch_hash_half(const HashArguments<T>& arguments, void* stream) {
  if (const auto status = launch_pack(arguments, stream)) return status;
  switch (arguments.padded_size) {
    case 32:
      return launch_tile<HashTile<T, 32>>(arguments, stream);
    case 64:
      return launch_tile<HashTile<T, 64>>(arguments, stream);
    case 128:
      return launch_tile<HashTile<T, 128>>(arguments, stream);
    default:
      return launch_tile<HashTile<T, 256>>(arguments, stream);
  }
}

}  // namespace reformer::cuda
