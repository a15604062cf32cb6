// LSHBucketsStep on CUDA: a warp finds the records of a new token's round, then a thread reads each
// token's bucket. Lengths are read by the kernels alone.
#include <limits>

#include "kernels/common/sizes.h"
#include "kernels/common/validation.h"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/operator_call.h"
#include "reformer_kernels.h"

namespace reformer::cuda {
namespace {

using Params = reformer_lsh_buckets_step_params;

constexpr char kOp[] = "LSHBucketsStep";
constexpr int kRecordThreads = 128;  // of a block, whose warps have a round each
constexpr int kReadThreads = 256;

struct RecordArguments {
  Global<const float> rotations;      // [H or 1, D, R, S]
  Global<int32_t> records;            // [B, H, R*W, P], with the past in it
  Global<const int32_t> lengths;      // [B], tokens held
  Global<const int32_t> new_lengths;  // [B]
  Global<int32_t> new_buckets;        // [B, H, R, Q]
  Global<int32_t> buckets;            // [B, H, R, P]
  int64_t batch = 0;
  int64_t tokens = 0;  // Q
  int64_t heads = 0;
  int64_t head_size = 0;
  int64_t rounds = 0;
  int64_t columns = 0;   // S
  int64_t words = 0;     // W
  int64_t capacity = 0;  // P
  int64_t padding_multiple = 0;
  bool shares_rotations = false;  // all heads
};

// A row of the batch, without tokens where its lengths do not fit.
struct RecordRow {
  int64_t held;
  int64_t fresh;
};

__device__ __forceinline__ RecordRow read_row(const RecordArguments& arguments, int64_t row) {
  const int64_t held = arguments.lengths[row];
  const int64_t fresh = arguments.new_lengths[row];
  const bool fits = held >= 0 && fresh >= 0 && fresh <= arguments.tokens &&
                    (fresh < 2 || held == 0) && held + fresh <= arguments.capacity;
  return {fits ? held : 0, fits ? fresh : 0};
}

// A lane has a column of its own, and all lanes follow the argmax through the columns in turn.
template <typename T>
__global__ void __launch_bounds__(kRecordThreads)
    record_tokens(const Global<const T> query_key, const RecordArguments arguments) {
  const int64_t lane = threadIdx.x % kWarpSize;
  const int64_t index = (int64_t{blockIdx.x} * kRecordThreads + threadIdx.x) / kWarpSize;
  const int64_t round = index % arguments.rounds;
  const int64_t head = index / arguments.rounds % arguments.heads;
  const int64_t token = index / (arguments.rounds * arguments.heads);  // of all rows
  const int64_t batch = token / arguments.tokens;
  if (batch >= arguments.batch) return;  // a whole warp
  const RecordRow row = read_row(arguments, batch);
  const int64_t own = token % arguments.tokens;
  if (own >= row.fresh) return;
  const int64_t size = arguments.head_size;
  const int64_t pitch = arguments.rounds * arguments.columns;
  const Global<const T> vector = query_key + (token * arguments.heads + head) * size;
  const int64_t line = (batch * arguments.heads + head) * arguments.rounds + round;
  const int64_t first_record = line * arguments.words * arguments.capacity + row.held + own;
  float best = -1;
  bool negative = false;
  uint32_t word = 0;
  for (int64_t first = 0; first < arguments.columns; first += kWarpSize) {
    const int64_t column = first + lane;
    const bool exists = column < arguments.columns;
    const int64_t place = (arguments.shares_rotations ? 0 : head) * size * pitch +
                          round * arguments.columns + (exists ? column : 0);
    float y = 0;
    for (int64_t d = 0; d < size; ++d) {
      y = fmaf(to_float(vector[d]), arguments.rotations[place + d * pitch], y);
    }
    const int64_t left = arguments.columns - first;
    for (int i = 0; i < kWarpSize && i < left; ++i) {
      const float value = __shfl_sync(kFullWarp, y, i);
      const float length = fabsf(value);
      const int64_t at = first + i;
      const int digit = static_cast<int>(at % REFORMER_RECORD_COLUMNS);
      if (length > best || (length == best && value >= 0 && negative)) {
        best = length;
        negative = value < 0;
        word |= (negative ? 2u : 1u) << 2 * digit;
      }
      if (digit + 1 == REFORMER_RECORD_COLUMNS || at + 1 == arguments.columns) {
        if (lane == 0) {
          arguments.records[first_record + at / REFORMER_RECORD_COLUMNS * arguments.capacity] =
              static_cast<int32_t>(word);
        }
        word = 0;
      }
    }
  }
}

__global__ void __launch_bounds__(kReadThreads) read_buckets(const RecordArguments arguments) {
  const int64_t index = int64_t{blockIdx.x} * kReadThreads + threadIdx.x;
  const int64_t line = index / arguments.capacity;
  const int64_t slot = index % arguments.capacity;
  const int64_t lines = arguments.heads * arguments.rounds;
  if (line >= arguments.batch * lines) return;
  const RecordRow row = read_row(arguments, line / lines);
  const int64_t tokens = row.fresh == 0 ? 0 : row.held + row.fresh;
  int32_t bucket = 0;
  if (slot < tokens) {
    const int64_t wanted = (tokens + arguments.padding_multiple - 1) / arguments.padding_multiple;
    const int columns = static_cast<int>(wanted < arguments.columns ? wanted : arguments.columns);
    const int64_t record = line * arguments.words * arguments.capacity + slot;
    for (int first = (columns - 1) / REFORMER_RECORD_COLUMNS * REFORMER_RECORD_COLUMNS; first >= 0;
         first -= REFORMER_RECORD_COLUMNS) {
      const int left = columns - first;
      const int count = left < REFORMER_RECORD_COLUMNS ? left : REFORMER_RECORD_COLUMNS;
      const uint32_t digits =
          static_cast<uint32_t>(
              arguments.records[record + first / REFORMER_RECORD_COLUMNS * arguments.capacity]) &
          ((1u << 2 * count) - 1);
      if (digits == 0) continue;
      const int highest = 31 - __clz(static_cast<int>(digits));
      bucket = first + highest / 2 + (highest % 2 != 0 ? columns : 0);
      break;
    }
  }
  arguments.buckets[index] = bucket;
  if (slot >= row.held && slot < tokens) {
    arguments.new_buckets[line * arguments.tokens + slot - row.held] = bucket;
  }
}

RecordArguments describe(const Params& params, const BucketsStepSizes& sizes) {
  RecordArguments arguments;
  arguments.rotations = view_global<const float>(params.rotations);
  arguments.records = view_global<int32_t>(params.present_records);
  arguments.lengths = view_global<const int32_t>(params.lengths);
  arguments.new_lengths = view_global<const int32_t>(params.new_lengths);
  arguments.new_buckets = view_global<int32_t>(params.new_buckets);
  arguments.buckets = view_global<int32_t>(params.buckets);
  arguments.batch = sizes.batch;
  arguments.tokens = sizes.length;
  arguments.heads = sizes.heads;
  arguments.head_size = sizes.head_size;
  arguments.rounds = sizes.rounds;
  arguments.columns = sizes.columns;
  arguments.words = sizes.words;
  arguments.capacity = sizes.capacity;
  arguments.padding_multiple = params.padding_multiple;
  arguments.shares_rotations = sizes.shares_rotations;
  return arguments;
}

reformer_status enqueue(const Params& params, const BucketsStepSizes& sizes) {
  void* stream = params.execution.stream;
  constexpr int64_t kSize = sizeof(int32_t);
  const int64_t lines = multiply_sizes({sizes.batch, sizes.heads, sizes.rounds});
  auto status = fill_bytes(params.new_buckets.data, 0, lines * sizes.length * kSize, stream);
  if (status == REFORMER_OK && params.past_records.data != params.present_records.data) {
    const int64_t bytes = lines * sizes.words * sizes.capacity * kSize;
    status = copy_lines(params.present_records.data, bytes, params.past_records.data, bytes, bytes,
                        1, stream);
  }
  if (status != REFORMER_OK) return status;
  const RecordArguments arguments = describe(params, sizes);
  if (!sizes.empty) {
    const int64_t warps = lines * sizes.length;
    const int64_t blocks = divide_up(warps, int64_t{kRecordThreads / kWarpSize});
    status = dispatch_dtype<float16, bfloat16>(params.query_key.dtype, [&](auto element) {
      using T = decltype(element);
      return launch(record_tokens<T>, blocks, kRecordThreads, 0, stream,
                    view_global<const T>(params.query_key), arguments);
    });
  }
  if (status != REFORMER_OK) return status;
  return launch(read_buckets, divide_up(lines * sizes.capacity, int64_t{kReadThreads}),
                kReadThreads, 0, stream, arguments);
}

reformer_status check_step(const Params* params, Extent extent, BucketsStepSizes* sizes) {
  if (const auto status = check_lsh_buckets_step(params, extent, sizes)) return status;
  return check_device_limits(kOp, params->execution, sizes->heads, sizes->head_size);
}

}  // namespace
}  // namespace reformer::cuda

reformer_status reformer_cuda_lsh_buckets_step_workspace(
    const reformer_lsh_buckets_step_params* params, uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::BucketsStepSizes sizes;
  const auto status = reformer::cuda::check_step(params, reformer::Extent::kShapes, &sizes);
  if (status == REFORMER_OK) *size = 0;
  return status;
}

reformer_status reformer_cuda_lsh_buckets_step(
    const reformer_lsh_buckets_step_params* params) noexcept {
  using namespace reformer::cuda;
  reformer::BucketsStepSizes sizes;
  const auto status = check_step(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK || sizes.batch == 0) return status;
  return report_launch(kOp, params->execution, enqueue(*params, sizes));
}
