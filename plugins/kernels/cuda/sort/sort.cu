// A stable radix sort of long segments by 11 bits of the bucket a pass, each of three launches. How
// many passes a segment needs is found on the device, because nothing here may wait for it: the
// first two are launched, and return at once where there is nothing to do. The third, of buckets
// above 2^22, which no model has, is one launch in which a segment has one block.
#include "kernels/cuda/sort/scan.cuh"
#include "kernels/cuda/sort/sort.h"
#include "kernels/cuda/sort/tile.cuh"

namespace reformer::cuda {
namespace {

constexpr int kSortLaunchedPasses = 2;
constexpr int kDigitsPerThread = kSortDigits / kSortThreads;
constexpr size_t kCountBytes = (kSortDigits + 1) * sizeof(int32_t);
constexpr size_t kSumBytes = kSortWarps * sizeof(int32_t);
constexpr size_t kScatterBytes = kSortWarps * kSortDigits * sizeof(uint16_t);

// How often each digit occurs in a tile, and in the first pass its highest bucket.
__device__ __forceinline__ void count_tile(const SortArguments& arguments, const SortTile& tile,
                                           int pass) {
  int32_t* counts = reinterpret_cast<int32_t*>(dynamic_shared());  // [kSortDigits]
  uint32_t* highest = reinterpret_cast<uint32_t*>(counts + kSortDigits);
  const int thread = static_cast<int>(threadIdx.x);
  for (int digit = thread; digit < kSortDigits; digit += kSortThreads) counts[digit] = 0;
  if (thread == 0) *highest = 0;
  __syncthreads();
  uint32_t own_highest = 0;
#pragma unroll 4
  for (int i = thread; i < tile.size; i += kSortThreads) {
    const uint32_t bucket = read_bucket(arguments, tile, read_position(arguments, tile, pass, i));
    atomicAdd(&counts[digit_of(bucket, pass)], 1);
    own_highest = bucket > own_highest ? bucket : own_highest;
  }
  if (pass == 0) atomicMax(highest, own_highest);
  __syncthreads();
  const Global<int32_t> target = arguments.tile_counts + tile.index * kSortDigits;
  for (int digit = thread; digit < kSortDigits; digit += kSortThreads) {
    target[digit] = counts[digit];
  }
  if (pass == 0 && thread == 0) arguments.tile_highest[tile.index] = *highest;
}

// Passes that a segment's highest bucket needs.
__device__ __forceinline__ int32_t count_passes(uint32_t highest) {
  int32_t passes = 1;
  for (uint32_t rest = highest >> kSortDigitBits; rest != 0; rest >>= kSortDigitBits) ++passes;
  return passes;
}

// Counts of the thread's digits in consecutive tiles, read together: one tile's reads would
// otherwise wait for the writes of the one before.
constexpr int kTileBatch = 4;
constexpr int kDigitVectors = kDigitsPerThread / 4;

struct CountBatch {
  Vector16 vectors[kTileBatch][kDigitVectors];
};

// counts: the first tile's, at the thread's digits.
__device__ __forceinline__ CountBatch load_counts(Global<const int32_t> counts, int64_t tiles) {
  CountBatch batch = {};
#pragma unroll
  for (int tile = 0; tile < kTileBatch; ++tile) {
    if (tile >= tiles) break;
#pragma unroll
    for (int i = 0; i < kDigitVectors; ++i) {
      batch.vectors[tile][i] = load_vector(counts + tile * kSortDigits + 4 * i);
    }
  }
  return batch;
}

// Replaces the batch's counts by the sums of those before them, and adds them to `totals`.
__device__ __forceinline__ void replace_counts(const CountBatch& batch, int64_t tiles,
                                               Global<int32_t> counts,
                                               uint32_t (&totals)[kDigitsPerThread]) {
#pragma unroll
  for (int tile = 0; tile < kTileBatch; ++tile) {
    if (tile >= tiles) break;
#pragma unroll
    for (int i = 0; i < kDigitVectors; ++i) {
      Vector16 before;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        before.words[j] = totals[4 * i + j];
        totals[4 * i + j] += batch.vectors[tile][i].words[j];
      }
      store_vector(counts + tile * kSortDigits + 4 * i, before);
    }
  }
}

// The segment's number of passes, from its tiles' highest buckets.
__device__ __forceinline__ int32_t find_passes(const SortArguments& arguments, int64_t segment) {
  uint32_t highest = 0;
  for (int64_t tile = 0; tile < arguments.tiles; ++tile) {
    const uint32_t other = arguments.tile_highest[segment * arguments.tiles + tile];
    highest = other > highest ? other : highest;
  }
  return count_passes(highest);
}

// Turns a segment's tile_counts into starts within their digit, and fills digit_starts.
__device__ __forceinline__ void sum_segment(const SortArguments& arguments, int64_t segment) {
  int32_t* warp_sums = reinterpret_cast<int32_t*>(dynamic_shared());  // [kSortWarps]
  const int first_digit = static_cast<int>(threadIdx.x) * kDigitsPerThread;
  uint32_t totals[kDigitsPerThread] = {};
  for (int64_t tile = 0; tile < arguments.tiles; tile += kTileBatch) {
    const Global<int32_t> counts =
        arguments.tile_counts + (segment * arguments.tiles + tile) * kSortDigits + first_digit;
    const int64_t left = arguments.tiles - tile;
    replace_counts(load_counts(counts, left), left, counts, totals);
  }
  uint32_t total = 0;
  for (int i = 0; i < kDigitsPerThread; ++i) total += totals[i];
  int32_t start = sum_before(static_cast<int32_t>(total), warp_sums);
  for (int i = 0; i < kDigitsPerThread; ++i) {
    arguments.digit_starts[segment * kSortDigits + first_digit + i] = start;
    start += static_cast<int32_t>(totals[i]);
  }
}

// counts [kSortWarps, kSortDigits]: every warp's count becomes the sum of those before it.
__device__ __forceinline__ void sum_over_warps(uint16_t* counts) {
  for (int digit = static_cast<int>(threadIdx.x); digit < kSortDigits; digit += kSortThreads) {
    int own[kSortWarps];
#pragma unroll
    for (int warp = 0; warp < kSortWarps; ++warp) own[warp] = counts[warp * kSortDigits + digit];
    int sum = 0;
#pragma unroll
    for (int warp = 0; warp < kSortWarps; ++warp) {
      counts[warp * kSortDigits + digit] = static_cast<uint16_t>(sum);
      sum += own[warp];
    }
  }
}

// Moves a tile's positions to their places. A warp has consecutive positions, 32 at a time, so that
// ranks follow the order they come in.
__device__ __forceinline__ void scatter_tile(const SortArguments& arguments, const SortTile& tile,
                                             int pass) {
  uint16_t* counts = reinterpret_cast<uint16_t*>(dynamic_shared());  // [kSortWarps, kSortDigits]
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  uint16_t* own_counts = counts + warp * kSortDigits;
  int32_t positions[kSortSteps];
  int32_t digits[kSortSteps];
  int32_t ranks[kSortSteps];  // among the warp's equal digits
#pragma unroll
  for (int step = 0; step < kSortSteps; ++step) {
    const int i = (warp * kSortSteps + step) * kWarpSize + lane;
    positions[step] = i < tile.size ? read_position(arguments, tile, pass, i) : 0;
    digits[step] = -1;
    if (i < tile.size) {
      digits[step] = digit_of(read_bucket(arguments, tile, positions[step]), pass);
    }
  }
  unsigned same[kSortSteps];
  match_digits(digits, kSortDigitBits, same);
  for (int digit = lane; digit < kSortDigits; digit += kWarpSize) own_counts[digit] = 0;
  __syncwarp();
  rank_digits(own_counts, digits, same, ranks);
  __syncthreads();
  sum_over_warps(counts);
  __syncthreads();
  const Global<int32_t> target = choose_target(arguments, tile, pass);
  const Global<const int32_t> tile_starts = arguments.tile_counts + tile.index * kSortDigits;
  const Global<const int32_t> digit_starts = arguments.digit_starts + tile.segment * kSortDigits;
#pragma unroll
  for (int step = 0; step < kSortSteps; ++step) {
    const int32_t digit = digits[step];
    if (digit < 0) continue;
    const int32_t place =
        digit_starts[digit] + tile_starts[digit] + own_counts[digit] + ranks[step];
    target[place] = positions[step];
  }
}

// Whether the segment was sorted by earlier passes. The first pass finds out how many there are.
__device__ __forceinline__ bool is_pass_idle(const SortArguments& arguments, int64_t segment,
                                             int pass) {
  return pass > 0 && pass >= arguments.segment_passes[segment];
}

// A launched pass: every tile has a block, then every segment, then every tile again.
__global__ void __launch_bounds__(kSortThreads)
    count_digits(const SortArguments arguments, int pass) {
  const SortTile tile = locate_own_tile(arguments);
  if (!is_pass_idle(arguments, tile.segment, pass)) count_tile(arguments, tile, pass);
}

__global__ void __launch_bounds__(kSortThreads)
    sum_digits(const SortArguments arguments, int pass) {
  const int64_t segment = blockIdx.x;
  if (is_pass_idle(arguments, segment, pass)) return;
  if (pass == 0) {
    const int32_t passes = find_passes(arguments, segment);
    if (threadIdx.x == 0) arguments.segment_passes[segment] = passes;
  }
  sum_segment(arguments, segment);
}

__global__ void __launch_bounds__(kSortThreads)
    scatter_positions(const SortArguments arguments, int pass) {
  const SortTile tile = locate_own_tile(arguments);
  if (!is_pass_idle(arguments, tile.segment, pass)) scatter_tile(arguments, tile, pass);
}

// The last pass, which is not launched like that: a segment has one block, which goes tile by tile.
__global__ void __launch_bounds__(kSortThreads) finish_segments(const SortArguments arguments) {
  constexpr int kPass = kSortLaunchedPasses;
  static_assert((kPass + 1) * kSortDigitBits >= 32, "no bucket needs more passes");
  const int64_t segment = blockIdx.x;
  if (is_pass_idle(arguments, segment, kPass)) return;
  for (int64_t tile = 0; tile < arguments.tiles; ++tile) {
    count_tile(arguments, locate_tile(arguments, segment, tile), kPass);
  }
  __syncthreads();  // all counts are written, and shared memory is free
  sum_segment(arguments, segment);
  for (int64_t tile = 0; tile < arguments.tiles; ++tile) {
    __syncthreads();  // starts are written, and shared memory is free
    scatter_tile(arguments, locate_tile(arguments, segment, tile), kPass);
  }
}

}  // namespace

reformer_status launch_long_sort(const SortArguments& arguments, void* stream) {
  const int64_t segments = arguments.segments;
  const int64_t blocks = segments * arguments.tiles;
  for (int pass = 0; pass < kSortLaunchedPasses; ++pass) {
    reformer_status status =
        launch(count_digits, blocks, kSortThreads, kCountBytes, stream, arguments, pass);
    if (status != REFORMER_OK) return status;
    status = launch(sum_digits, segments, kSortThreads, kSumBytes, stream, arguments, pass);
    if (status != REFORMER_OK) return status;
    status =
        launch(scatter_positions, blocks, kSortThreads, kScatterBytes, stream, arguments, pass);
    if (status != REFORMER_OK) return status;
  }
  return launch(finish_segments, arguments.segments, kSortThreads, kScatterBytes, stream,
                arguments);
}

}  // namespace reformer::cuda
