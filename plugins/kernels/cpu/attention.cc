// LSHAttention and LocalAttention on the CPU: lays out the workspace and runs the phases.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <atomic>

#include "kernels/common/tensor_checks.h"
#include "kernels/common/validation.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/sort.h"
#include "kernels/cpu/tiles.h"
#include "reformer_kernels.h"

namespace reformer {
namespace {

// Pairs (batch, head) are taken in groups whose tensors stay in the last-level cache over all
// rounds, bytes; but large enough to give every worker some blocks.
constexpr int64_t kGroupBytes = int64_t{4} << 20;
constexpr int64_t kBlocksPerWorker = 8;

// Where a call's arrays are in its workspace.
struct Workspace {
  int64_t group = 0;         // pairs in flight
  int32_t* order = nullptr;  // [group, R, Lp]
  float* lse_max = nullptr;  // [group, L]
  float* lse_sum = nullptr;  // [group, L]
  float* partial = nullptr;  // [group, L, D], for half precision outputs
  char* scratch = nullptr;   // the workers', one behind the other
  size_t scratch_bytes = 0;  // of one worker
  size_t size = 0;           // bytes to ask for
};

// What one worker sorts with: counters, then a spare list of positions.
struct SortScratch {
  int32_t* counters;
  int32_t* spare;
};

SortScratch layout_sort_scratch(const AttentionSizes& sizes, WorkspaceArena& arena) {
  return {arena.allocate<int32_t>(kSortDigits),
          arena.allocate<int32_t>(static_cast<size_t>(sizes.length))};
}

// Bytes of one worker's scratch: sorting and attending take turns in the same memory.
size_t measure_scratch(const AttendJob& job) {
  WorkspaceArena attend(nullptr);
  layout_attend_scratch(job, attend);
  WorkspaceArena sort(nullptr);
  if (needs_order(job)) layout_sort_scratch(job.sizes, sort);
  return std::max(attend.used(), sort.used());
}

Workspace layout_workspace(const AttendJob& job, int64_t group, int32_t num_workers, void* block) {
  const AttentionSizes& sizes = job.sizes;
  const bool many = sizes.rounds > 1;
  const bool keep_partial = many && job.dtype != REFORMER_FLOAT32;
  const int64_t order = needs_order(job) ? sizes.rounds * sizes.padded_length : 0;
  const int64_t state = many ? sizes.length : 0;
  const int64_t partial = keep_partial ? sizes.length * sizes.head_size : 0;
  WorkspaceArena arena(block);
  Workspace workspace;
  workspace.group = group;
  const auto allocate_floats = [&](int64_t count) {
    return count == 0 ? nullptr
                      : arena.allocate<float>(static_cast<size_t>(workspace.group * count));
  };
  if (order > 0) {
    workspace.order = arena.allocate<int32_t>(static_cast<size_t>(workspace.group * order));
  }
  workspace.lse_max = allocate_floats(state);
  workspace.lse_sum = allocate_floats(state);
  workspace.partial = allocate_floats(partial);
  workspace.scratch_bytes = measure_scratch(job);
  workspace.scratch =
      arena.allocate<char>(static_cast<size_t>(num_workers) * workspace.scratch_bytes);
  workspace.size = arena.size();
  return workspace;
}

// Fills the order of one pair's round. False when a bucket is negative.
bool sort_round(const AttentionSizes& sizes, const int32_t* buckets, const SortScratch& sort,
                int32_t* order) {
  if (!sort_positions(buckets, sizes.length, sizes.padded_length, order, sort.spare,
                      sort.counters)) {
    return false;
  }
  // A block's queries then see few of the keys behind the last of them, and those are left out.
  // What a chunk holds is the same, and so are its sums up to rounding.
  if (sizes.causal) order_chunks(sizes.length, sizes.chunk_length, order, sort.spare);
  return true;
}

// Fills the order of every round of the group. False when a bucket is negative.
bool sort_group(const AttendJob& job, const reformer_execution& execution,
                const BucketRows& buckets, const Workspace& workspace) {
  const AttentionSizes& sizes = job.sizes;
  const int64_t first = job.first_pair * sizes.rounds;
  std::atomic<bool> valid{true};
  parallel_ranges(
      execution, job.group * sizes.rounds, 1, [&](int64_t worker, int64_t begin, int64_t end) {
        WorkspaceArena arena(workspace.scratch +
                             static_cast<size_t>(worker) * workspace.scratch_bytes);
        const SortScratch sort = layout_sort_scratch(sizes, arena);
        for (int64_t i = begin; i < end; ++i) {
          const bool sorted = sort_round(sizes, buckets.data + (first + i) * buckets.stride, sort,
                                         workspace.order + i * sizes.padded_length);
          if (!sorted) valid.store(false, std::memory_order_relaxed);
        }
      });
  return valid.load();
}

// One round of one group.
void attend_round(const AttendJob& job, const reformer_execution& execution,
                  const Workspace& workspace) {
  const AttendFunction attend = select_attend();
  const int64_t total = job.group * blocks_per_round(job.sizes);
  const int64_t grain = choose_grain(total, execution.num_workers);
  parallel_shares(execution, total, grain, [&](int64_t worker, auto ranges) {
    WorkspaceArena arena(workspace.scratch + static_cast<size_t>(worker) * workspace.scratch_bytes);
    AttendScratch scratch = layout_attend_scratch(job, arena);
    int64_t begin;
    int64_t end;
    while (ranges.next(&begin, &end)) attend(job, scratch, begin, end);
  });
}

}  // namespace

int64_t choose_group(const AttendJob& job, int32_t num_workers) {
  const AttentionSizes& sizes = job.sizes;
  if (!needs_order(job)) return sizes.batch * sizes.heads;  // nothing is kept of a pair
  const int64_t pair_bytes = 4 * sizes.length * (3 * sizes.head_size + sizes.rounds);
  const int64_t cached = kGroupBytes / pair_bytes;
  const int64_t busy = divide_up(kBlocksPerWorker * num_workers, blocks_per_round(sizes));
  return std::clamp<int64_t>(std::max(cached, busy), 1, sizes.batch * sizes.heads);
}

uint64_t measure_attention(const AttendJob& job, int64_t most_pairs, int32_t num_workers) {
  return job.sizes.empty ? 0 : layout_workspace(job, most_pairs, num_workers, nullptr).size;
}

reformer_status run_attention(const char* op, AttendJob& job, int64_t most_pairs,
                              const reformer_execution& execution, const BucketRows& buckets) {
  if (job.sizes.empty) return REFORMER_OK;
  const Workspace workspace =
      layout_workspace(job, most_pairs, execution.num_workers, execution.workspace);
  if (const auto status = check_workspace(op, execution, workspace.size)) return status;
  const int64_t pairs = job.sizes.batch * job.sizes.heads;
  job.order = workspace.order;
  job.lse_max = workspace.lse_max;
  job.lse_sum = workspace.lse_sum;
  job.partial = workspace.partial;
  job.strip = choose_strip(job);
  for (job.first_pair = 0; job.first_pair < pairs; job.first_pair += workspace.group) {
    job.group = std::min(workspace.group, pairs - job.first_pair);
    if (workspace.order != nullptr && !sort_group(job, execution, buckets, workspace)) {
      return report(execution, op, REFORMER_ERROR_BUCKETS,
                    "buckets has a negative value, expected bucket numbers >= 0");
    }
    // Rounds follow one another: the next adds to the partial sums of the last.
    for (job.round = 0; job.round < job.sizes.rounds; ++job.round) {
      attend_round(job, execution, workspace);
    }
  }
  return REFORMER_OK;
}

namespace {

AttendJob describe(const reformer_lsh_attention_params& params, const AttentionSizes& sizes) {
  AttendJob job;
  job.sizes = sizes;
  job.dtype = params.query_key.dtype;
  job.query = job.key = params.query_key.data;
  job.value = params.value.data;
  job.output = params.output.data;
  job.mask = static_cast<const int32_t*>(params.attention_mask.data);
  job.shared_query_key = true;
  job.key_norm_epsilon = params.key_norm_epsilon;
  job.self_logit = params.self_logit;
  return job;
}

AttendJob describe(const reformer_local_attention_params& params, const AttentionSizes& sizes) {
  AttendJob job;
  job.sizes = sizes;
  job.dtype = params.query.dtype;
  job.query = params.query.data;
  job.key = params.key.data;
  job.value = params.value.data;
  job.output = params.output.data;
  job.mask = static_cast<const int32_t*>(params.attention_mask.data);
  job.self_logit = params.self_logit;
  return job;
}

uint64_t measure_call(const AttendJob& job, const reformer_execution& execution) {
  if (job.sizes.empty) return 0;
  const int64_t group = choose_group(job, execution.num_workers);
  return measure_attention(job, group, execution.num_workers);
}

reformer_status run_call(const char* op, AttendJob& job, const reformer_execution& execution,
                         const int32_t* buckets) {
  if (job.sizes.empty) return REFORMER_OK;
  const int64_t group = choose_group(job, execution.num_workers);
  return run_attention(op, job, group, execution, {buckets, job.sizes.length});
}

}  // namespace
}  // namespace reformer

reformer_status reformer_cpu_lsh_attention_workspace(const reformer_lsh_attention_params* params,
                                                     uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::AttentionSizes sizes;
  const auto status = reformer::check_lsh_attention(params, reformer::Extent::kShapes, &sizes);
  if (status != REFORMER_OK) return status;
  *size = reformer::measure_call(reformer::describe(*params, sizes), params->execution);
  return REFORMER_OK;
}

reformer_status reformer_cpu_local_attention_workspace(
    const reformer_local_attention_params* params, uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::AttentionSizes sizes;
  const auto status = reformer::check_local_attention(params, reformer::Extent::kShapes, &sizes);
  if (status != REFORMER_OK) return status;
  *size = reformer::measure_call(reformer::describe(*params, sizes), params->execution);
  return REFORMER_OK;
}

reformer_status reformer_cpu_lsh_attention(const reformer_lsh_attention_params* params) noexcept {
  reformer::AttentionSizes sizes;
  const auto status = reformer::check_lsh_attention(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK) return status;
  reformer::AttendJob job = reformer::describe(*params, sizes);
  return reformer::run_call("LSHAttention", job, params->execution,
                            static_cast<const int32_t*>(params->buckets.data));
}

reformer_status reformer_cpu_local_attention(
    const reformer_local_attention_params* params) noexcept {
  reformer::AttentionSizes sizes;
  const auto status = reformer::check_local_attention(params, reformer::Extent::kCall, &sizes);
  if (status != REFORMER_OK) return status;
  reformer::AttendJob job = reformer::describe(*params, sizes);
  return reformer::run_call("LocalAttention", job, params->execution, nullptr);
}
