// LSHBucketsStep on the CPU: records of the new tokens, then the buckets of all by as many columns
// as there are now.
#include <algorithm>
#include <cstring>

#include "kernels/common/sizes.h"
#include "kernels/common/validation.h"
#include "kernels/cpu/hash.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/step_cache.h"
#include "reformer_kernels.h"

namespace reformer {
namespace {

using Params = reformer_lsh_buckets_step_params;

constexpr char kOp[] = "LSHBucketsStep";

// Numbers that are worth another thread.
constexpr int64_t kLeastWork = int64_t{1} << 14;

HashSizes hash_sizes(const BucketsStepSizes& sizes) {
  HashSizes hash;
  hash.batch = sizes.batch;
  hash.length = sizes.length;
  hash.heads = sizes.heads;
  hash.head_size = sizes.head_size;
  hash.rounds = sizes.rounds;
  hash.rotation_size = sizes.columns;
  return hash;
}

void find_records(const Params& params, const BucketsStepSizes& sizes,
                  const HashWorkspace& workspace) {
  RecordJob job;
  job.hash.sizes = hash_sizes(sizes);
  job.hash.dtype = params.query_key.dtype;
  job.hash.query_key = params.query_key.data;
  job.hash.rotations = static_cast<const float*>(params.rotations.data);
  job.lengths = static_cast<const int32_t*>(params.lengths.data);
  job.new_lengths = static_cast<const int32_t*>(params.new_lengths.data);
  job.records = static_cast<int32_t*>(params.present_records.data);
  job.words = sizes.words;
  job.shares_rotations = sizes.shares_rotations;
  job.capacity = sizes.capacity;
  const RecordFunction record = select_records();
  const int64_t total = sizes.batch * sizes.heads * hash_blocks_per_entry(job.hash.sizes);
  const int64_t tokens = std::min(sizes.length, static_cast<int64_t>(kHashTokens));
  const int64_t work = tokens * sizes.head_size * sizes.rounds * sizes.columns;
  const int64_t grain = std::max(choose_grain(total, params.execution.num_workers),
                                 kLeastWork / std::max<int64_t>(work, 1));
  parallel_ranges(params.execution, total, grain, [&](int64_t worker, int64_t begin, int64_t end) {
    HashScratch scratch = view_hash_scratch(job.hash.sizes, workspace, worker);
    record(job, scratch, begin, end);
  });
}

// The last column that a token's argmax moves to is the highest digit of its records that is not 0.
void read_records(const int32_t* records, int64_t capacity, int64_t tokens, int32_t columns,
                  int32_t* buckets) {
  std::fill(buckets, buckets + capacity, 0);
  for (int32_t first = 0; first < columns; first += REFORMER_RECORD_COLUMNS) {
    const int32_t count = std::min(columns - first, REFORMER_RECORD_COLUMNS);
    const int32_t mask = static_cast<int32_t>((uint32_t{1} << 2 * count) - 1);
    for (int64_t i = 0; i < tokens; ++i) {
      const int32_t digits = records[i] & mask;
      // The highest bit that is set, as a float's exponent: no digit is 3, so that none of these
      // integers is rounded up to the next power.
      const float number = static_cast<float>(digits);
      int32_t bits;
      std::memcpy(&bits, &number, sizeof(bits));
      const int32_t highest = (bits >> 23) - 127;
      const int32_t bucket = first + (highest >> 1) + ((highest & 1) != 0 ? columns : 0);
      buckets[i] = digits != 0 ? bucket : buckets[i];
    }
    records += capacity;
  }
}

void find_buckets(const Params& params, const BucketsStepSizes& sizes) {
  const auto* lengths = static_cast<const int32_t*>(params.lengths.data);
  const auto* new_lengths = static_cast<const int32_t*>(params.new_lengths.data);
  const auto* records = static_cast<const int32_t*>(params.present_records.data);
  auto* buckets = static_cast<int32_t*>(params.buckets.data);
  auto* new_buckets = static_cast<int32_t*>(params.new_buckets.data);
  const int64_t lines = sizes.heads * sizes.rounds;
  const int64_t work = std::max<int64_t>(1, sizes.capacity * sizes.words);
  const int64_t grain = std::max<int64_t>(1, kLeastWork / work);
  const auto read_lines = [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t held = lengths[line / lines];
      const int64_t fresh = new_lengths[line / lines];
      const int64_t tokens = fresh == 0 ? 0 : held + fresh;
      const int64_t columns = std::min(divide_up(tokens, params.padding_multiple), sizes.columns);
      int32_t* all = buckets + line * sizes.capacity;
      read_records(records + line * sizes.words * sizes.capacity, sizes.capacity, tokens,
                   static_cast<int32_t>(columns), all);
      int32_t* own = new_buckets + line * sizes.length;
      std::copy(all + held, all + held + fresh, own);
      std::fill(own + fresh, own + sizes.length, 0);
    }
  };
  parallel_ranges(params.execution, sizes.batch * lines, grain, read_lines);
}

reformer_status run(const Params& params, const BucketsStepSizes& sizes) {
  if (sizes.batch == 0) return REFORMER_OK;
  const reformer_execution& execution = params.execution;
  const HashWorkspace workspace =
      layout_hash_workspace(hash_sizes(sizes), execution.num_workers, execution.workspace);
  const uint64_t needed = sizes.empty ? 0 : workspace.size;
  if (const auto status = check_workspace(kOp, execution, needed)) return status;
  StepJob job;
  job.sizes = sizes;
  job.lengths = static_cast<const int32_t*>(params.lengths.data);
  job.new_lengths = static_cast<const int32_t*>(params.new_lengths.data);
  for (int64_t row = 0; row < sizes.batch; ++row) {
    const auto status = check_step_row(kOp, execution, sizes, sizes.capacity, row, job.lengths[row],
                                       job.new_lengths[row]);
    if (status != REFORMER_OK) return status;
  }
  const int64_t lines = sizes.batch * sizes.heads * sizes.rounds * sizes.words;
  copy_past(
      job, execution,
      {params.past_records.data, params.present_records.data, nullptr, lines, sizeof(int32_t)});
  if (!sizes.empty) find_records(params, sizes, workspace);
  find_buckets(params, sizes);
  return REFORMER_OK;
}

}  // namespace
}  // namespace reformer

reformer_status reformer_cpu_lsh_buckets_step_workspace(
    const reformer_lsh_buckets_step_params* params, uint64_t* size) noexcept {
  using namespace reformer;
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  BucketsStepSizes sizes;
  const auto status = check_lsh_buckets_step(params, Extent::kShapes, &sizes);
  if (status != REFORMER_OK) return status;
  const int32_t workers = params->execution.num_workers;
  *size = sizes.empty ? 0 : layout_hash_workspace(hash_sizes(sizes), workers, nullptr).size;
  return REFORMER_OK;
}

reformer_status reformer_cpu_lsh_buckets_step(
    const reformer_lsh_buckets_step_params* params) noexcept {
  reformer::BucketsStepSizes sizes;
  const auto status = reformer::check_lsh_buckets_step(params, reformer::Extent::kCall, &sizes);
  return status != REFORMER_OK ? status : reformer::run(*params, sizes);
}
