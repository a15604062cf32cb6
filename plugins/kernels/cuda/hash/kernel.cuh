// The hashing kernel. A warp keeps its tokens in registers as the left operand; rotations are in
// shared memory, as many columns as fit. Products add up in float32 and go straight into the
// running argmax.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/common/sizes.h"
#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/hash/columns.cuh"
#include "kernels/cuda/hash/stage.cuh"
#include "kernels/cuda/hash/tile.cuh"

namespace reformer::cuda {

// A warp's products with a batch of groups: per group and tile of rows, lane 4 g + t has columns
// 2 t and the next, of row g in [0] and [1], of row g + 8 in [2] and [3].
template <typename Tile>
using GroupProducts = float[Tile::kBatch][Tile::kRowTiles][4];

// 16-bit tokens, the smallest parts first.
template <typename Tile>
__device__ __forceinline__ void multiply_half(const TokenRows<Tile>& tokens,
                                              const HashStage<Tile>& stage, int first_group,
                                              GroupProducts<Tile>& d) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const Vector16* own = stage.find(first_group, 0, lane / 4) + lane % 4;
#pragma unroll(Tile::kPartsAtOnce)
  for (int part = Tile::kParts - 1; part >= 0; --part) {
#pragma unroll
    for (int span = 0; span < Tile::kSpans; ++span) {
#pragma unroll
      for (int i = 0; i < Tile::kBatch; ++i) {
        const Vector16 y =
            own[i * Tile::kGroupVectors + part * kHashGroup * Tile::kColumnVectors + 4 * span];
#pragma unroll
        for (int step = 0; step < 2; ++step) {
#pragma unroll
          for (int tile = 0; tile < Tile::kRowTiles; ++tile) {
            uint32_t a[4];
            tokens.get_operand(tile, span, step, a);
            multiply_add_16x8x16<typename Tile::T>(d[i][tile], a,
                                                   {y.words[2 * step], y.words[2 * step + 1]});
          }
        }
      }
    }
  }
}

// float32 tokens, in three TF32 products. Tensor cores round sums towards zero, so they add up four
// spans, 64 elements in 8 steps, and what that gives is added up as float32 does it.
template <typename Tile>
__device__ __forceinline__ void multiply_float32(const TokenRows<Tile>& tokens,
                                                 const HashStage<Tile>& stage, int first_group,
                                                 GroupProducts<Tile>& d) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const Vector16* own = stage.find(first_group, 0, lane / 4) + lane % 4;
  constexpr int kPieceSpans = std::min(int{Tile::kSpans}, 4);
  float corrections[Tile::kBatch][4] = {};
#pragma unroll
  for (int piece = 0; piece < Tile::kSpans; piece += kPieceSpans) {
    float sums[Tile::kBatch][4] = {};
#pragma unroll
    for (int span = piece; span < piece + kPieceSpans; ++span) {
      SplitOperand<4> a[2];
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t bits[4];
        tokens.get_operand(0, span, step, bits);
        if constexpr (Tile::kSpans > 8) {
          // Split once for all groups, long rows would not fit into registers.
          for (uint32_t& word : bits) forget_origin(word);
        }
        a[step] = split_operand<4>({__uint_as_float(bits[0]), __uint_as_float(bits[1]),
                                    __uint_as_float(bits[2]), __uint_as_float(bits[3])});
      }
#pragma unroll
      for (int i = 0; i < Tile::kBatch; ++i) {
        const Vector16* y = own + i * Tile::kGroupVectors + 4 * span;
        const Vector16 big = y[0];
        const Vector16 small = y[kHashGroup * Tile::kColumnVectors];
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const SplitOperand<2> b = {{big.words[2 * step], big.words[2 * step + 1]},
                                     {small.words[2 * step], small.words[2 * step + 1]}};
          multiply_add_16x8x8(sums[i], corrections[i], a[step], b);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) d[i][0][j] += sums[i][j];
    }
  }
#pragma unroll
  for (int i = 0; i < Tile::kBatch; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) d[i][0][j] += corrections[i][j];
  }
}

// Lane 4 g + t of a warp has, of every eighth row from g on, columns 2 t and the next of a group.
// At a factor's end the four lanes of a row agree on its choice, and each is left with one row.
template <typename Tile>
class WarpBuckets {
 public:
  using T = typename Tile::T;

  // first: the warp's first position.
  __device__ __forceinline__ WarpBuckets(const HashArguments<T>& arguments, const HashBlock& block,
                                         int64_t first)
      : arguments_(arguments), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {
    // As end_factor leaves rows with lanes.
    const int row = kRows == 4 ? 2 * (lane_ % 2) + lane_ / 2 % 2 : lane_ % 2;
    const int64_t position = first + 8 * row + lane_ / 4;
    stores_ = position < arguments.length && (kRows == 4 || lane_ % 4 < 2);
    visible_ = stores_ && arguments.mask[block.batch * arguments.length + position] != 0;
    target_ =
        arguments.buckets + (int64_t{block.pair} * arguments.rounds * arguments.length + position);
  }

  // scales: the group's, [kHashGroup].
  __device__ __forceinline__ void add_group(const float (&d)[Tile::kRowTiles][4],
                                            const float* scales, const ColumnWalk& walk) {
    const int own = 2 * (lane_ % 4);
    const int32_t column = walk.first() + own;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float scale = 1;
      if constexpr (!Tile::kIsFloat32) scale = scales[own + i];
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        choices_[row].add(d[row / 2][2 * (row % 2) + i] * scale, column + i);
      }
    }
  }

  // The last group of a factor was added.
  __device__ __forceinline__ void end_factor(const ColumnWalk& walk) {
    Choice own[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      own[row] = choices_[row].choose(walk.half_size());
      choices_[row] = RunningChoice();
    }
    // Of two lanes, each gives the rows that it does not keep.
    int step = 1;
#pragma unroll
    for (int kept = kRows / 2; kept > 0; kept /= 2, step *= 2) {
      const bool keeps_last = (lane_ & step) != 0;
#pragma unroll
      for (int row = 0; row < kept; ++row) {
        const Choice given = keeps_last ? own[row] : own[row + kept];
        if (keeps_last) own[row] = own[row + kept];
        own[row].merge(__shfl_xor_sync(kFullWarp, given.value, step),
                       __shfl_xor_sync(kFullWarp, given.index, step));
      }
    }
    if constexpr (kRows == 2) {
      own[0].merge(__shfl_xor_sync(kFullWarp, own[0].value, 2),
                   __shfl_xor_sync(kFullWarp, own[0].index, 2));
    }
    bucket_ += walk.stride() * own[0].index;
  }

  // Writes the buckets of the round that ends, and goes on to the next.
  __device__ __forceinline__ void end_round() {
    if (stores_) target_[0] = visible_ ? bucket_ : arguments_.masked_bucket;
    target_ += arguments_.length;
    bucket_ = 0;
  }

 private:
  static constexpr int kRows = 2 * Tile::kRowTiles;

  const HashArguments<T>& arguments_;
  RunningChoice choices_[kRows];
  int lane_;
  int32_t bucket_ = 0;
  Global<int32_t> target_;  // of the lane's position in the round
  bool stores_;
  bool visible_;
};

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::min_blocks(kForTuring))
    hash_tokens(const HashArguments<typename Tile::T> arguments, const HashPlan plan) {
  const int32_t index = static_cast<int32_t>(blockIdx.x);
  HashBlock block;
  block.pair = plan.by_head_blocks.divide(index);
  block.batch = plan.by_heads.divide(block.pair);
  block.head = plan.by_heads.remainder(block.pair, block.batch);
  block.first = int64_t{plan.by_head_blocks.remainder(index, block.pair)} * Tile::kRows;
  const int64_t first =
      block.first + static_cast<int>(threadIdx.x) / kWarpSize * int{Tile::kWarpRows};
  TokenRows<Tile> tokens;
  tokens.load(arguments, block, first);
  WarpBuckets<Tile> buckets(arguments, block, first);
  const HashStage<Tile> stage = layout_stage<Tile>();
  ColumnWalk walk(arguments.factors, plan.by_round_groups, 0);
  for (int32_t stage_first = 0;;) {
    fill_stage<Tile>(arguments, plan, block.head, stage_first, stage);
    __syncthreads();  // the stage is there
    const int end = min(int{Tile::kGroups}, plan.groups - stage_first);
#pragma unroll 1
    for (int group = 0; group < end; group += Tile::kBatch) {
      GroupProducts<Tile> d = {};
      if constexpr (Tile::kIsFloat32) {
        multiply_float32<Tile>(tokens, stage, group, d);
      } else {
        multiply_half<Tile>(tokens, stage, group, d);
      }
#pragma unroll
      for (int i = 0; i < Tile::kBatch; ++i) {
        if (group + i >= end) break;
        buckets.add_group(d[i], stage.scales + (group + i) * kHashGroup, walk);
        if (walk.ends_factor()) buckets.end_factor(walk);
        if (walk.ends_round()) buckets.end_round();
        walk.advance();
      }
    }
    stage_first += Tile::kGroups;
    if (stage_first >= plan.groups) break;
    __syncthreads();  // everybody is done with the stage
  }
}

template <typename Tile>
reformer_status launch_tile(const HashArguments<typename Tile::T>& arguments, void* stream) {
  const int64_t head_blocks = divide_up<int64_t>(arguments.length, Tile::kRows);
  const int64_t blocks = multiply_sizes({arguments.batch, arguments.heads, head_blocks});
  if (blocks > std::numeric_limits<int32_t>::max()) return REFORMER_ERROR_TOO_LARGE;
  int32_t round_groups = 0;
  for (int32_t i = 0; i < arguments.factors.count; ++i) {
    round_groups += count_hash_groups(arguments.factors.half_sizes[i]);
  }
  HashPlan plan;
  plan.by_head_blocks = Divisor(static_cast<int32_t>(head_blocks));
  plan.by_heads = Divisor(static_cast<int32_t>(arguments.heads));
  plan.by_round_groups = Divisor(round_groups);
  plan.groups = arguments.rounds * round_groups;
  return launch(hash_tokens<Tile>, blocks, Tile::kThreads, Tile::kSharedBytes, stream, arguments,
                plan);
}

// Enqueues the kernel that is made for the head size.
template <typename T>
reformer_status launch_for_size(const HashArguments<T>& arguments, void* stream) {
  if (arguments.head_size <= 32) return launch_tile<HashTile<T, 32>>(arguments, stream);
  if (arguments.head_size <= 64) return launch_tile<HashTile<T, 64>>(arguments, stream);
  if (arguments.head_size <= 128) return launch_tile<HashTile<T, 128>>(arguments, stream);
  return launch_tile<HashTile<T, 256>>(arguments, stream);
}

}  // namespace reformer::cuda
