// A stable radix sort of every segment by 11 bits of the bucket a pass. Usual bucket numbers have
// no more, so later passes mostly return at once; how many are needed is found on the device,
// because nothing here may wait for it.
#include "kernels/cuda/sort/sort.h"
#include "kernels/cuda/sort/tile.cuh"

namespace reformer::cuda {
namespace {

constexpr int kThreads = kSortWarps * kWarpSize;
constexpr int kDigitsPerThread = kSortDigits / kThreads;

// How often each digit occurs in a tile, and in the first pass its highest bucket.
__global__ void __launch_bounds__(kThreads) count_digits(const SortArguments arguments, int pass) {
  const SortTile tile = locate_tile(arguments);
  if (is_pass_idle(arguments, tile, pass)) return;
  int32_t* counts = reinterpret_cast<int32_t*>(dynamic_shared());  // [kSortDigits]
  uint32_t* highest = reinterpret_cast<uint32_t*>(counts + kSortDigits);
  const int thread = static_cast<int>(threadIdx.x);
  for (int digit = thread; digit < kSortDigits; digit += kThreads) counts[digit] = 0;
  if (thread == 0) *highest = 0;
  __syncthreads();
  uint32_t own_highest = 0;
  for (int i = thread; i < tile.size; i += kThreads) {
    const uint32_t bucket = read_bucket(arguments, tile, read_position(arguments, tile, pass, i));
    atomicAdd(&counts[digit_of(bucket, pass)], 1);
    own_highest = bucket > own_highest ? bucket : own_highest;
  }
  atomicMax(highest, own_highest);
  __syncthreads();
  const Global<int32_t> target = arguments.tile_counts + tile.index * kSortDigits;
  for (int digit = thread; digit < kSortDigits; digit += kThreads) target[digit] = counts[digit];
  if (pass == 0 && thread == 0) arguments.tile_highest[tile.index] = *highest;
}

// Passes that a segment's highest bucket needs.
__device__ __forceinline__ int32_t count_passes(uint32_t highest) {
  int32_t passes = 1;
  for (uint32_t rest = highest >> kSortDigitBits; rest != 0; rest >>= kSortDigitBits) ++passes;
  return passes;
}

// Exclusive prefix sum of one value a thread.
__device__ __forceinline__ int32_t sum_before(int32_t value, int32_t* warp_sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int32_t sum = value;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int32_t below = __shfl_up_sync(kFullWarp, sum, static_cast<unsigned>(step));
    if (lane >= step) sum += below;
  }
  if (lane == kWarpSize - 1) warp_sums[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += warp_sums[w];
  return sum - value;
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

// One block a segment: turns tile_counts into starts within their digit, and fills digit_starts.
__global__ void __launch_bounds__(kThreads) sum_digits(const SortArguments arguments, int pass) {
  int32_t* warp_sums = reinterpret_cast<int32_t*>(dynamic_shared());  // [kSortWarps]
  const int64_t segment = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  if (pass == 0) {
    const int32_t passes = find_passes(arguments, segment);
    if (thread == 0) arguments.segment_passes[segment] = passes;
  } else if (pass >= arguments.segment_passes[segment]) {
    return;
  }
  const int first_digit = thread * kDigitsPerThread;
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

// Moves a tile's positions to their places. A warp has consecutive positions, 32 at a time, so that
// ranks follow the order they come in.
__global__ void __launch_bounds__(kThreads)
    scatter_positions(const SortArguments arguments, int pass) {
  const SortTile tile = locate_tile(arguments);
  if (is_pass_idle(arguments, tile, pass)) return;
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
    digits[step] = kSortDigits;
    if (i < tile.size) {
      digits[step] = digit_of(read_bucket(arguments, tile, positions[step]), pass);
    }
  }
  rank_in_warp(own_counts, digits, ranks);
  __syncthreads();
  sum_over_warps(counts);
  __syncthreads();
  const Global<int32_t> target = choose_target(arguments, tile, pass);
  const Global<const int32_t> tile_starts = arguments.tile_counts + tile.index * kSortDigits;
  const Global<const int32_t> digit_starts = arguments.digit_starts + tile.segment * kSortDigits;
#pragma unroll
  for (int step = 0; step < kSortSteps; ++step) {
    const int32_t digit = digits[step];
    if (digit == kSortDigits) continue;
    const int32_t place =
        digit_starts[digit] + tile_starts[digit] + own_counts[digit] + ranks[step];
    target[place] = positions[step];
  }
}

}  // namespace

reformer_status launch_sort(const SortArguments& arguments, void* stream) {
  const int64_t blocks = arguments.segments * arguments.tiles;
  const size_t count_bytes = (kSortDigits + 1) * sizeof(int32_t);
  const size_t sum_bytes = kSortWarps * sizeof(int32_t);
  const size_t scatter_bytes = kSortWarps * kSortDigits * sizeof(uint16_t);
  for (int pass = 0; pass < kSortPasses; ++pass) {
    reformer_status status =
        launch(count_digits, blocks, kThreads, count_bytes, stream, arguments, pass);
    if (status != REFORMER_OK) return status;
    status = launch(sum_digits, arguments.segments, kThreads, sum_bytes, stream, arguments, pass);
    if (status != REFORMER_OK) return status;
    status = launch(scatter_positions, blocks, kThreads, scatter_bytes, stream, arguments, pass);
    if (status != REFORMER_OK) return status;
  }
  return REFORMER_OK;
}

}  // namespace reformer::cuda
