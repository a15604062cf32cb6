#include <algorithm>

#include "kernels/common/sizes.h"
#include "kernels/cuda/step/attend.cuh"
#include "kernels/cuda/step/ranks.cuh"
#include "kernels/cuda/step/step.h"
#include "kernels/cuda/step/window.cuh"

namespace reformer::cuda {
namespace {

// `line` is a (batch, head, round).
template <typename T>
__device__ __forceinline__ StepBlock locate_step(const StepArguments<T>& arguments, int32_t line) {
  const int32_t rounds = static_cast<int32_t>(arguments.rounds);
  const int32_t heads = static_cast<int32_t>(arguments.heads);
  StepBlock block;
  block.line = line;
  block.pair = line / rounds;
  block.round = line % rounds;
  block.batch = static_cast<int32_t>(block.pair) / heads;
  block.head = static_cast<int32_t>(block.pair) % heads;
  const int32_t held = arguments.lengths[block.batch];
  block.held = static_cast<uint32_t>(held);
  block.steps =
      arguments.new_lengths[block.batch] == 1 && held >= 0 && held < arguments.most_tokens;
  const int64_t tokens = block.batch * arguments.tokens * arguments.heads + block.head;
  block.token = tokens * arguments.head_size;
  block.cache =
      (block.batch * arguments.capacity * arguments.heads + block.head) * arguments.head_size;
  return block;
}

// Puts the new token into the caches. Blocks read it from where it came from, and nobody reads what
// it replaces in a ring.
template <typename T>
__device__ __forceinline__ void store_token(const StepArguments<T>& arguments,
                                            const StepBlock& block) {
  const int64_t size = arguments.head_size;
  if (block.round == 0) {
    const int64_t slot =
        arguments.is_lsh ? block.held : block.held % static_cast<uint32_t>(arguments.capacity);
    const int64_t place = block.cache + slot * arguments.heads * size;
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
      arguments.keys[place + i] = arguments.key[block.token + i];
      arguments.values[place + i] = arguments.value[block.token + i];
    }
  }
  if (arguments.is_lsh && threadIdx.x == 0) {
    arguments.buckets[block.line * arguments.capacity + block.held] =
        arguments.new_buckets[block.line * arguments.tokens];
  }
}

// A row that does not step: its output is 0, where it has no other.
template <typename T>
__device__ __forceinline__ void rest(const StepArguments<T>& arguments, const StepBlock& block) {
  if (arguments.tokens != 1 || block.round != 0) return;
  for (int64_t i = threadIdx.x; i < arguments.head_size; i += blockDim.x) {
    arguments.output[block.token + i] = T{};
  }
}

// The rounds after the first of a dense block, which has one round: they weigh nothing.
template <typename T>
__device__ __forceinline__ void skip_round(const StepArguments<T>& arguments,
                                           const StepBlock& block) {
  for (int64_t i = threadIdx.x; i < arguments.head_size; i += blockDim.x) {
    arguments.partial[block.line * arguments.head_size + i] = 0.0f;
  }
  if (threadIdx.x == 0) arguments.lse[block.line] = -kInfinity;
}

// The buckets of another round of the block's row.
template <typename T>
__device__ __forceinline__ RoundBuckets view_round(const StepArguments<T>& arguments,
                                                   const StepBlock& block, uint32_t round,
                                                   uint32_t length) {
  const int64_t line = block.pair * arguments.rounds + round;
  const Global<const int32_t> buckets = arguments.buckets;
  return {buckets + line * arguments.capacity,
          static_cast<uint32_t>(arguments.new_buckets[line * arguments.tokens]), length};
}

// A block has a row's head in a round of LSH attention.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kMostStepThreads)
    step_lsh(const StepArguments<T> arguments, int lanes) {
  const StepBlock block = locate_step(arguments, static_cast<int32_t>(blockIdx.x));
  if (!block.steps) return rest(arguments, block);
  store_token(arguments, block);
  const StepRow row = cut_row(arguments, block.held + 1);
  if (row.dense && block.round > 0) return skip_round(arguments, block);
  RankShared& shared = *reinterpret_cast<RankShared*>(dynamic_shared());
  QueryAttention<T, kVector, true> attention(arguments, block, lanes);
  uint32_t surveyed = static_cast<uint32_t>(block.round);
  RoundBuckets round = view_round(arguments, block, surveyed, row.length);
  Survey survey{1, 0};
  int turn = 0;
  if (!row.dense) survey = survey_round(round, turn, shared);
  WindowRanges<kStepKeys> ranges(row, surveyed, (survey.not_greater - 1) / row.chunk_length);
  for (RankRange range; ranges.next(&range);) {
    const uint32_t count = range.end - range.begin;
    if (row.dense || count == row.length) {
      attention.attend(count, [&](uint32_t i) { return range.begin + i; });
      continue;
    }
    if (range.round != surveyed) {
      surveyed = range.round;
      turn ^= 1;
      round = view_round(arguments, block, surveyed, row.length);
      survey = survey_round(round, turn, shared);
    }
    list_positions(round, find_ends(round, survey.highest, range, shared), range, shared);
    attention.attend(count, [&](uint32_t i) { return static_cast<uint32_t>(shared.positions[i]); });
  }
  attention.finish(reinterpret_cast<float*>(dynamic_shared() + sizeof(RankShared)));
}

// A block has a row's head of local attention.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kMostStepThreads)
    step_local(const StepArguments<T> arguments, int lanes) {
  const StepBlock block = locate_step(arguments, static_cast<int32_t>(blockIdx.x));
  if (!block.steps) return rest(arguments, block);
  store_token(arguments, block);
  const StepRow row = cut_row(arguments, block.held + 1);
  QueryAttention<T, kVector, false> attention(arguments, block, lanes);
  WindowRanges<UINT32_MAX> ranges(row, 0, block.held / row.chunk_length);
  for (RankRange range; ranges.next(&range);) {
    attention.attend(range.end - range.begin, [&](uint32_t i) { return range.begin + i; });
  }
  attention.finish(reinterpret_cast<float*>(dynamic_shared()));
}

// A block adds up the rounds of a row's head.
template <typename T>
__global__ void __launch_bounds__(kMostStepThreads) combine_step(const StepArguments<T> arguments) {
  const int32_t rounds = static_cast<int32_t>(arguments.rounds);
  const StepBlock block = locate_step(arguments, static_cast<int32_t>(blockIdx.x) * rounds);
  if (!block.steps) return;
  float highest = arguments.lse[block.line];
  for (int32_t r = 1; r < rounds; ++r) highest = fmaxf(highest, arguments.lse[block.line + r]);
  float sum = 0;
  for (int32_t r = 0; r < rounds; ++r) sum += expf(arguments.lse[block.line + r] - highest);
  const float total = highest + logf(sum);  // rounded to float32, as the contract wants
  for (int64_t i = threadIdx.x; i < arguments.head_size; i += blockDim.x) {
    float value = 0;
    for (int32_t r = 0; r < rounds; ++r) {
      value += expf(arguments.lse[block.line + r] - total) *
               arguments.partial[(block.line + r) * arguments.head_size + i];
    }
    arguments.output[block.token + i] = from_float<T>(value);
  }
}

// Enough threads for a window's keys in four turns, and for a round's buckets in 32. By shapes
// alone: a row's result does not depend on the other rows.
template <typename T>
unsigned choose_threads(const StepArguments<T>& arguments, int64_t lanes) {
  const int64_t window = (int64_t{arguments.before} + 1) * arguments.chunk_length;
  const int64_t keys = std::max(window, int64_t{arguments.dense_threshold});
  int64_t wanted = std::min(keys, arguments.capacity) * lanes / 4;
  if (arguments.is_lsh) wanted = std::max(wanted, arguments.capacity / kWarpSize);
  unsigned threads = 4 * kWarpSize;
  while (threads < kMostStepThreads && threads < wanted) threads *= 2;
  return threads;
}

template <typename T, bool kVector>
reformer_status launch_pieces(const StepArguments<T>& arguments, void* stream) {
  const int64_t pieces = divide_up<int64_t>(arguments.head_size, kStepElements<T, kVector>);
  int lanes = 1;
  while (lanes < kWarpSize && lanes < pieces) lanes *= 2;
  const unsigned threads = choose_threads(arguments, lanes);
  const size_t warps = threads / kWarpSize;
  const size_t row_bytes = warps * (static_cast<size_t>(arguments.head_size) + 2) * sizeof(float);
  const int64_t pairs = arguments.batch * arguments.heads;
  if (!arguments.is_lsh) {
    return launch(step_local<T, kVector>, pairs, threads, row_bytes, stream, arguments, lanes);
  }
  const int64_t lines = multiply_sizes({pairs, arguments.rounds});
  const auto status = launch(step_lsh<T, kVector>, lines, threads, sizeof(RankShared) + row_bytes,
                             stream, arguments, lanes);
  if (status != REFORMER_OK || arguments.rounds == 1) return status;
  const int64_t elements = round_up<int64_t>(arguments.head_size, kWarpSize);
  return launch(combine_step<T>, pairs, static_cast<unsigned>(elements), 0, stream, arguments);
}

}  // namespace

template <typename T>
reformer_status launch_step(const StepArguments<T>& arguments, void* stream) {
  return arguments.vector_rows ? launch_pieces<T, true>(arguments, stream)
                               : launch_pieces<T, false>(arguments, stream);
}

template reformer_status launch_step(const StepArguments<float>&, void*);
template reformer_status launch_step(const StepArguments<float16>&, void*);
template reformer_status launch_step(const StepArguments<bfloat16>&, void*);

}  // namespace reformer::cuda
