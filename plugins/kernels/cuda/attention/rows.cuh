// How rows of queries, keys and values come into shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/keys.cuh"
#include "kernels/cuda/attention/tile.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {

// Rows that 16-byte copies cannot take, element by element.
template <typename Tile, int kRows>
__device__ __forceinline__ void copy_elements(const AttentionPlan& plan,
                                              Global<const typename Tile::T> source,
                                              const int32_t* positions, uint32_t thread,
                                              typename Tile::T* target) {
  using T = typename Tile::T;
#pragma unroll 1
  for (uint32_t i = thread; i < kRows * Tile::kHeadSize; i += Tile::kThreads) {
    const int32_t row = static_cast<int32_t>(i / Tile::kHeadSize);
    const int32_t column = static_cast<int32_t>(i % Tile::kHeadSize);
    const int32_t position = positions[row];
    const bool valid = is_stored(plan, position) && column < plan.head_size;
    target[row * Tile::kStride + column] =
        valid ? offset_rows(source, position, plan.width_bytes)[column] : T{};
  }
}

// Starts copying the block's head of `tensor`, rows at `positions`, to `target` [kRows, kStride].
// Rows that no memory has, and what a head has less than kHeadSize, become zeros.
template <typename Tile, int kRows>
__device__ __forceinline__ void copy_rows(const AttentionArguments<typename Tile::T>& arguments,
                                          const AttentionPlan& plan, const AttentionBlock& block,
                                          Global<const typename Tile::T> tensor,
                                          const int32_t* positions, typename Tile::T* target) {
  uint32_t thread = threadIdx.x;
  forget_origin(thread);
  if (!arguments.vector_rows) {
    copy_elements<Tile, kRows>(plan, tensor + block.first_element, positions, thread, target);
    return;
  }
  // A thread has a part, always of the same columns, of kShare rows in a row. Their positions come
  // first: nothing then waits for shared memory between copies.
  constexpr int kShare = kRows * Tile::kLaneVectors / Tile::kThreads;
  static_assert(kShare * Tile::kThreads == kRows * Tile::kLaneVectors, "every thread has as many");
  const int32_t first_row = static_cast<int32_t>(thread / Tile::kLaneVectors) * kShare;
  const int32_t first_column = static_cast<int32_t>(thread % Tile::kLaneVectors * Tile::kVector);
  const Global<const typename Tile::T> source = tensor + (block.first_element + first_column);
  target += first_row * Tile::kStride + first_column;
  int32_t own_positions[kShare];
#pragma unroll
  for (int32_t row = 0; row < kShare; ++row) own_positions[row] = positions[first_row + row];
#pragma unroll
  for (int32_t row = 0; row < kShare; ++row) {
    const bool stored = is_stored(plan, own_positions[row]);
    const auto source_row = offset_rows(source, own_positions[row], plan.width_bytes);
#pragma unroll
    for (int32_t column = 0; column < Tile::kHeadSize;
         column += Tile::kLaneVectors * Tile::kVector) {
      copy_async_16(target + row * Tile::kStride + column, source_row + column,
                    stored && first_column + column < plan.head_size);
    }
  }
}

// How tiles of keys and values come and go. Item 2t is tile t's keys, item 2t + 1 its values. The
// keys of the first plan.own_tiles tiles are the queries, and stay; the other items come in their
// order, the j-th of them to slot j % kSlots. One of a thread's groups of copies belongs to the
// queries, and one to each that comes.
template <typename Tile>
class RowRing {
 public:
  using T = typename Tile::T;

  __device__ __forceinline__ RowRing(const AttentionArguments<T>& arguments,
                                     const AttentionPlan& plan, const AttentionBlock& block,
                                     const AttentionShared<Tile>& shared)
      : arguments_(arguments), plan_(plan), block_(block), shared_(shared) {}

  // Starts copying the queries, if they have room of their own, and the first items.
  __device__ __forceinline__ void start() const {
    if (!Tile::kQueryInRegisters || plan_.query_rows > 0) {
      copy_rows<Tile, Tile::kQueryRows>(
          arguments_, plan_, block_, arguments_.query,
          plan_.own_tiles > 0 ? shared_.key_positions : shared_.query_positions, shared_.query);
    }
    commit_copies();
#pragma unroll
    for (int32_t j = 0; j < Tile::kSlots; ++j) start_coming(j);
  }

  // Waits for an item. Everybody is then done with the one that came before, whose slot the next to
  // come gets.
  __device__ __forceinline__ const T* await_item(int32_t item) const {
    if (Tile::kKnowsOwnKeys && item < 2 * plan_.own_tiles && item % 2 == 0) {
      if (item == 0) {
        wait_copies<Tile::kSlots>();
        __syncthreads();
      }
      return shared_.query + item / 2 * Tile::kSlotElements;
    }
    const int32_t j = item - min(plan_.own_tiles, (item + 1) / 2);
    if (j == 0) {
      wait_copies<Tile::kSlots - 1>();
    } else {
      wait_copies<Tile::kSlots - 2>();
    }
    __syncthreads();
    if (j > 0) start_coming(j - 1 + Tile::kSlots);
    return slot(j);
  }

  __device__ __forceinline__ T* slot(int32_t j) const {
    return shared_.slots + static_cast<uint32_t>(j) % Tile::kSlots * Tile::kSlotElements;
  }

 private:
  // Starts copying the j-th item that comes, if there is one, and closes its group.
  __device__ __forceinline__ void start_coming(int32_t j) const {
    const int32_t item = j < plan_.own_tiles ? 2 * j + 1 : j + plan_.own_tiles;
    const int32_t tile = item >> 1;
    if (tile < plan_.key_tiles) {
      const int32_t* positions = shared_.key_positions + tile % kMetadataTiles * Tile::kKeys;
      copy_rows<Tile, Tile::kKeys>(arguments_, plan_, block_,
                                   item % 2 == 0 ? arguments_.key : arguments_.value, positions,
                                   slot(j));
    }
    commit_copies();
  }

  const AttentionArguments<T>& arguments_;
  const AttentionPlan& plan_;
  const AttentionBlock& block_;
  const AttentionShared<Tile>& shared_;
};

}  // namespace reformer::cuda
