// What a block of the hashing has at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/divisor.h"
#include "kernels/cuda/hash/columns.cuh"

namespace reformer::cuda {

// Numbers of type T that add up to a float32 rotation. float16: 11 bits each, one more by the
// second's sign. float32: two of TF32, which have as many.
template <typename T>
constexpr int kRotationParts = 2;
template <>
inline constexpr int kRotationParts<bfloat16> = 3;  // 8 bits each

// Tokens and rotations are read in vectors of 16 bytes. Of a "span", four of them that follow one
// another in a row of tokens or in a column of rotations, the four lanes that share the row or
// column have one each: two matrix steps, the first of which takes a lane's words 0 and 1, the
// second 2 and 3. A step wants other elements of a row in these places, but to a sum it is all the
// same in what order they come, as long as both operands agree.
template <typename Element, int kSize>
struct HashTile {
  using T = Element;
  static constexpr bool kIsFloat32 = sizeof(T) == 4;
  static constexpr int kVector = static_cast<int>(sizeof(Vector16) / sizeof(T));
  static constexpr int kSpans = kSize / (4 * kVector);
  static constexpr int kParts = kRotationParts<T>;
  // Parts that the compiler may interleave: Turing's plain products of bfloat16 take many
  // registers.
  static constexpr int kPartsAtOnce = kParts == 2 ? 2 : 1;
  // Registers for 16 warps of heads up to 64, for 12 at 128 if parts are few.
  static constexpr int kWarps = !kIsFloat32 && kParts == 2 && kSize == 128 ? 12 : 8;
  static constexpr int kThreads = kWarps * kWarpSize;
  // Tiles of 16 rows that share what a warp reads of the rotations, as far as registers go.
  static constexpr int kRowTiles = !kIsFloat32 && kSize <= 128 ? 2 : 1;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  // Groups of columns that are multiplied at once: sums that do not wait for one another. float32
  // has two of them in each group, and 16 bits have two tiles of rows.
  static constexpr int kBatch = kIsFloat32 || (kParts == 3 && kSize == 128) ? 1 : 2;
  // A column's vectors in shared memory. An odd number of 64 bytes: two columns' spans, which eight
  // lanes read together, then lie in different banks.
  static constexpr int kColumnVectors = 4 * (kSpans % 2 == 0 ? kSpans + 1 : kSpans);
  static constexpr int kGroupVectors = kParts * kHashGroup * kColumnVectors;
  static constexpr int kStageBytes = 40 * 1024;  // at most
  static constexpr int kGroups =
      kStageBytes / (kGroupVectors * static_cast<int>(sizeof(Vector16))) / kBatch * kBatch;
  static constexpr size_t kSharedBytes =
      kGroups * (kGroupVectors * sizeof(Vector16) + kHashGroup * sizeof(float));
  // Blocks a multiprocessor should hold: the bound on registers, of which Turing's plain products
  // of bfloat16 take many.
  static constexpr int min_blocks(bool turing) {
    return kSize <= 64 && !(turing && kParts == 3) ? 2 : 1;
  }
  static_assert(kGroups > 0, "a stage holds a batch of groups");
};

// How a launch divides its work.
struct HashPlan {
  Divisor by_head_blocks;  // blocks that one head's tokens take
  Divisor by_heads;
  Divisor by_round_groups;  // groups of columns of a round
  int32_t groups = 0;       // of all rounds
};

// The tokens that one block hashes: consecutive positions of one head.
struct HashBlock {
  int32_t pair;  // (batch, head)
  int32_t batch;
  int32_t head;
  int64_t first;  // position
};

// A warp's tokens, the left operand: lane 4 g + t has vector t of every span of rows g and g + 8.
template <typename Tile>
struct TokenRows {
  using T = typename Tile::T;

  Vector16 vectors[Tile::kRowTiles][2][Tile::kSpans];

  // first: the warp's first position. Zeros where no token or element is.
  __device__ __forceinline__ void load(const HashArguments<T>& arguments, const HashBlock& block,
                                       int64_t first) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t position = first + lane / 4;
    const int64_t token = block.batch * arguments.length + position;
    const int64_t width = arguments.heads * arguments.head_size;
    const Global<const T> source =
        arguments.query_key + (token * width + block.head * arguments.head_size);
    const int64_t rows_left = arguments.length - position;
    const int own = lane % 4 * Tile::kVector;
#pragma unroll
    for (int row = 0; row < 2 * Tile::kRowTiles; ++row) {
      Vector16(&target)[Tile::kSpans] = vectors[row / 2][row % 2];
      const Global<const T> elements = source + 8 * row * width;
      const int size = 8 * row < rows_left ? static_cast<int>(arguments.head_size) : 0;
      if (arguments.vector_rows) {
#pragma unroll
        for (int span = 0; span < Tile::kSpans; ++span) {
          const int first_element = 4 * Tile::kVector * span + own;
          target[span] = first_element < size ? load_vector(elements + first_element) : Vector16{};
        }
      } else {
#pragma unroll
        for (int span = 0; span < Tile::kSpans; ++span) {
          target[span] = load_elements(elements, 4 * Tile::kVector * span + own, size);
        }
      }
    }
  }

  // The left operand of a step of a span.
  __device__ __forceinline__ void get_operand(int tile, int span, int step,
                                              uint32_t (&a)[4]) const {
    a[0] = vectors[tile][0][span].words[2 * step];
    a[1] = vectors[tile][1][span].words[2 * step];
    a[2] = vectors[tile][0][span].words[2 * step + 1];
    a[3] = vectors[tile][1][span].words[2 * step + 1];
  }

 private:
  static __device__ __forceinline__ uint32_t load_bits(Global<const T> source, int i, int size) {
    if (i >= size) return 0;
    if constexpr (Tile::kIsFloat32) {
      return __float_as_uint(source[i]);
    } else {
      return source[i].bits;
    }
  }

  static __device__ __forceinline__ Vector16 load_elements(Global<const T> source, int first,
                                                           int size) {
    Vector16 vector;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Tile::kIsFloat32) {
        vector.words[i] = load_bits(source, first + i, size);
      } else {
        vector.words[i] = load_bits(source, first + 2 * i, size) |
                          (load_bits(source, first + 2 * i + 1, size) << 16);
      }
    }
    return vector;
  }
};

}  // namespace reformer::cuda
