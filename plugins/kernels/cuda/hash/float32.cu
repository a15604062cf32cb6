// Hashing of float32 tokens without tensor cores, whose products are not exact enough. A thread has
// 8 tokens times one group of 8 columns; then one thread a token goes through the groups' best.
#include <algorithm>
#include <cstdint>

#include "kernels/common/sizes.h"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/hash/columns.cuh"
#include "kernels/cuda/hash/pack.cuh"

namespace reformer::cuda {
namespace {

constexpr int kRows = 128;    // tokens of a block
constexpr int kColumns = 64;  // of a tile
constexpr int kGroups = kColumns / kHashGroup;
constexpr int kThreadRows = 8;
constexpr int kThreads = kRows / kThreadRows * kGroups;
constexpr int kDepth = 32;  // of the head size at once
// A row is 16 bytes longer than it need be, a group of columns again: 16-byte reads of rows that
// are 8 apart then meet different banks.
constexpr int kStride = kDepth + 4;
constexpr int kGroupStride = kHashGroup * kStride + 4;
constexpr int kTokenFloats = kRows * kStride;
constexpr int kRotationFloats = kGroups * kGroupStride;
static_assert(kThreads == kRows, "one thread a token ends every tile");
static_assert(HashPacking<float>::kColumnTile == kColumns, "packed columns are whole tiles");

// The best of one group for one token.
struct GroupChoice {
  float highest;
  float lowest;
  int32_t places;  // of highest in the low half, of lowest in the high half; within the group
};

struct HashShared {
  float* tokens;         // [kRows, kStride]
  float* rotations;      // [kGroups, kHashGroup columns at kStride], groups at kGroupStride
  GroupChoice* choices;  // [kGroups, kRows]
};

constexpr size_t kSharedBytes =
    (kTokenFloats + kRotationFloats) * sizeof(float) + kGroups * kRows * sizeof(GroupChoice);

__device__ __forceinline__ HashShared layout_shared() {
  HashShared shared;
  shared.tokens = reinterpret_cast<float*>(dynamic_shared());
  shared.rotations = shared.tokens + kTokenFloats;
  shared.choices = reinterpret_cast<GroupChoice*>(shared.rotations + kRotationFloats);
  return shared;
}

// Elements [first_k, first_k + kDepth) of the block's tokens; zeros where there are none. Unrolled,
// the loads' addresses would not fit into the registers beside the sums.
__device__ __forceinline__ void load_tokens(const HashArguments<float>& arguments,
                                            const HashBlock& block, int first_k, float* target) {
  const int head_size = static_cast<int>(arguments.head_size);
  if (arguments.vector_rows) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kDepth / 4; i += kThreads) {
      const int64_t position = block.first + i / (kDepth / 4);
      const int k = i % (kDepth / 4) * 4;
      copy_async_16(target + i / (kDepth / 4) * kStride + k,
                    find_row(arguments, block, position) + (first_k + k),
                    position < arguments.length && first_k + k < head_size);
    }
    return;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDepth; i += kThreads) {
    const int64_t position = block.first + i / kDepth;
    const int k = i % kDepth;
    const bool exists = position < arguments.length && first_k + k < head_size;
    target[i / kDepth * kStride + k] =
        exists ? find_row(arguments, block, position)[first_k + k] : 0.0f;
  }
}

__device__ __forceinline__ void load_rotations(const HashArguments<float>& arguments, int32_t head,
                                               int64_t first_column, int first_k, float* target) {
  const int64_t size = arguments.padded_size;
  const Global<const float> source =
      arguments.packed + (head * arguments.padded_columns + first_column) * size + first_k;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kColumns * kDepth / 4; i += kThreads) {
    const int column = i / (kDepth / 4);
    const int k = i % (kDepth / 4) * 4;
    copy_async_16(target + column / kHashGroup * kGroupStride + column % kHashGroup * kStride + k,
                  source + column * size + k, true);
  }
}

struct alignas(16) Float4 {
  float x, y, z, w;
};

// sums += tokens . rotations over kDepth elements; both point at the thread's first row.
__device__ __forceinline__ void multiply_tile(const float* tokens, const float* rotations,
                                              float (&sums)[kThreadRows][kHashGroup]) {
#pragma unroll 1
  for (int k = 0; k < kDepth; k += 4) {
    Float4 x[kThreadRows];
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      x[i] = *reinterpret_cast<const Float4*>(tokens + i * kStride + k);
    }
#pragma unroll
    for (int j = 0; j < kHashGroup; ++j) {
      const Float4 y = *reinterpret_cast<const Float4*>(rotations + j * kStride + k);
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) {
        float sum = sums[i][j];
        sum = fmaf(x[i].x, y.x, sum);
        sum = fmaf(x[i].y, y.y, sum);
        sum = fmaf(x[i].z, y.z, sum);
        sums[i][j] = fmaf(x[i].w, y.w, sum);
      }
    }
  }
}

__device__ __forceinline__ GroupChoice choose_in_group(const float (&sums)[kHashGroup], int valid) {
  RunningChoice choice;
#pragma unroll
  for (int j = 0; j < kHashGroup; ++j) {
    if (j < valid) choice.add(sums[j], j);
  }
  return {choice.highest, choice.lowest, choice.highest_at | (choice.lowest_at << 16)};
}

// Writes the best of the group that `walk` is at, for the thread's rows.
__device__ __forceinline__ void store_choices(const ColumnWalk& walk,
                                              const float (&sums)[kThreadRows][kHashGroup],
                                              GroupChoice* target) {
  const int valid = walk.is_done() ? 0 : walk.half_size() - walk.first();
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) target[i] = choose_in_group(sums[i], valid);
}

// One token's bucket, group after group.
struct TokenBucket {
  RunningChoice choice;
  int32_t bucket = 0;

  __device__ __forceinline__ void add_group(const GroupChoice& group, const ColumnWalk& walk) {
    choice.merge(group.highest, walk.first() + (group.places & 0xFFFF), group.lowest,
                 walk.first() + (group.places >> 16));
    if (!walk.ends_factor()) return;
    bucket += walk.stride() * choice.choose(walk.half_size());
    choice = RunningChoice();
  }
};

__global__ void __launch_bounds__(kThreads, 3)
    hash_tokens(const HashArguments<float> arguments, int blocks_per_head) {
  const HashShared shared = layout_shared();
  const HashBlock block = locate_hash_block(arguments, blocks_per_head, kRows);
  const int thread = static_cast<int>(threadIdx.x);
  const int own_group = thread % kGroups;
  const int first_row = thread / kGroups * kThreadRows;
  ColumnWalk walk(arguments.factors, arguments.rounds);
  TokenBucket token;
  for (int64_t column = 0; !walk.is_done(); column += kColumns) {
    float sums[kThreadRows][kHashGroup] = {};
    for (int k = 0; k < arguments.padded_size; k += kDepth) {
      __syncthreads();  // everybody is done with what the loads overwrite
      load_tokens(arguments, block, k, shared.tokens);
      load_rotations(arguments, block.head, column, k, shared.rotations);
      commit_copies();
      wait_copies<0>();
      __syncthreads();
      multiply_tile(shared.tokens + first_row * kStride,
                    shared.rotations + own_group * kGroupStride, sums);
    }
    ColumnWalk own_walk = walk;
    for (int i = 0; i < own_group && !own_walk.is_done(); ++i) own_walk.advance();
    store_choices(own_walk, sums, shared.choices + own_group * kRows + first_row);
    __syncthreads();
    for (int group = 0; group < kGroups && !walk.is_done(); ++group) {
      token.add_group(shared.choices[group * kRows + thread], walk);
      if (walk.ends_round()) {
        store_bucket(arguments, block, walk.round(), block.first + thread, token.bucket);
        token.bucket = 0;
      }
      walk.advance();
    }
  }
}

}  // namespace

template <>
reformer_status launch_hash(const HashArguments<float>& arguments, void* stream) {
  if (const auto status = launch_pack(arguments, stream)) return status;
  const int64_t blocks_per_head = divide_up<int64_t>(arguments.length, kRows);
  return launch(hash_tokens, arguments.batch * arguments.heads * blocks_per_head, kThreads,
                kSharedBytes, stream, arguments, static_cast<int>(blocks_per_head));
}

}  // namespace reformer::cuda
