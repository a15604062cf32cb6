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
  for (uint32_t i = thread; i < kRows * Tile::kHeadSize; i += kBlockThreads) {
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
  // A thread's columns are the same in every row that it has a part of.
  constexpr int kStep = kBlockThreads / Tile::kLaneVectors;
  const int32_t first_row = static_cast<int32_t>(thread / Tile::kLaneVectors);
  const int32_t first_column = static_cast<int32_t>(thread % Tile::kLaneVectors * Tile::kVector);
  const Global<const typename Tile::T> source = tensor + (block.first_element + first_column);
  positions += first_row;
  target += first_row * Tile::kStride + first_column;
#pragma unroll
  for (int32_t row = 0; row < kRows; row += kStep) {
    const bool stored = is_stored(plan, positions[row]);
    const auto source_row = offset_rows(source, positions[row], plan.width_bytes);
#pragma unroll
    for (int32_t column = 0; column < Tile::kHeadSize;
         column += Tile::kLaneVectors * Tile::kVector) {
      copy_async_16(target + row * Tile::kStride + column, source_row + column,
                    stored && first_column + column < plan.head_size);
    }
  }
}

// The ring of slots. Item 2t is tile t's keys, item 2t + 1 its values; item i lies in slot
// i % kSlots, and one of a thread's groups of copies belongs to each.
template <typename Tile>
class RowRing {
 public:
  using T = typename Tile::T;

  __device__ __forceinline__ RowRing(const AttentionArguments<T>& arguments,
                                     const AttentionPlan& plan, const AttentionBlock& block,
                                     const AttentionShared<Tile>& shared)
      : arguments_(arguments), plan_(plan), block_(block), shared_(shared) {}

  __device__ __forceinline__ T* slot(int32_t item) const {
    return shared_.slots + static_cast<uint32_t>(item) % Tile::kSlots * Tile::kSlotElements;
  }

  // Starts copying an item, if there is one, and closes its group.
  __device__ __forceinline__ void start_item(int32_t item) const {
    const int32_t tile = item >> 1;
    if (tile < plan_.key_tiles) {
      const int32_t* positions = shared_.key_positions + tile % kMetadataTiles * Tile::kKeys;
      copy_rows<Tile, Tile::kKeys>(arguments_, plan_, block_,
                                   item % 2 == 0 ? arguments_.key : arguments_.value, positions,
                                   slot(item));
    }
    commit_copies();
  }

  // Waits for an item. Everybody is then done with the one before, whose slot the next to come
  // gets.
  __device__ __forceinline__ const T* await_item(int32_t item) const {
    if (item == 0) {
      wait_copies<Tile::kSlots - 1>();
    } else {
      wait_copies<Tile::kSlots - 2>();
    }
    __syncthreads();
    if (item > 0) start_item(item - 1 + Tile::kSlots);
    return slot(item);
  }

 private:
  const AttentionArguments<T>& arguments_;
  const AttentionPlan& plan_;
  const AttentionBlock& block_;
  const AttentionShared<Tile>& shared_;
};

}  // namespace reformer::cuda
