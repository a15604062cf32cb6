// LSHBuckets on the CPU.
#include "kernels/common/validation.h"
#include "kernels/cpu/hash.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tiles.h"
#include "reformer_kernels.h"

namespace reformer {
namespace {

HashScratch layout_hash_scratch(const HashSizes& sizes, WorkspaceArena& arena) {
  const size_t width = round_up(static_cast<size_t>(sizes.head_size), kLanes);
  HashScratch scratch;
  scratch.rows = arena.allocate<float>(kLanes * width);
  scratch.tokens = arena.allocate<float>(width * kHashTokens);
  scratch.rotated = arena.allocate<float>(kHashColumns * kHashTokens);
  scratch.highest = arena.allocate<float>(kHashTokens);
  scratch.lowest = arena.allocate<float>(kHashTokens);
  scratch.highest_at = arena.allocate<int32_t>(kHashTokens);
  scratch.lowest_at = arena.allocate<int32_t>(kHashTokens);
  scratch.bucket = arena.allocate<int32_t>(kHashTokens);
  return scratch;
}

}  // namespace

HashWorkspace layout_hash_workspace(const HashSizes& sizes, int32_t num_workers, void* block) {
  WorkspaceArena one(nullptr);
  layout_hash_scratch(sizes, one);
  WorkspaceArena arena(block);
  char* scratch = arena.allocate<char>(static_cast<size_t>(num_workers) * one.used());
  return {scratch, one.used(), arena.size()};
}

HashScratch view_hash_scratch(const HashSizes& sizes, const HashWorkspace& workspace,
                              int64_t worker) {
  WorkspaceArena arena(workspace.scratch + static_cast<size_t>(worker) * workspace.scratch_bytes);
  return layout_hash_scratch(sizes, arena);
}

namespace {

void run_hash(const HashJob& job, const HashWorkspace& workspace,
              const reformer_execution& execution) {
  const HashFunction hash = select_hash();
  const HashSizes& sizes = job.sizes;
  const int64_t total = sizes.batch * sizes.heads * hash_blocks_per_entry(sizes);
  const int64_t grain = choose_grain(total, execution.num_workers);
  parallel_ranges(execution, total, grain, [&](int64_t worker, int64_t begin, int64_t end) {
    HashScratch scratch = view_hash_scratch(sizes, workspace, worker);
    hash(job, scratch, begin, end);
  });
}

}  // namespace
}  // namespace reformer

reformer_status reformer_cpu_lsh_buckets_workspace(const reformer_lsh_buckets_params* params,
                                                   uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::HashSizes sizes;
  const auto status = reformer::check_lsh_buckets(params, reformer::Extent::kShapes, &sizes);
  if (status != REFORMER_OK) return status;
  const int32_t workers = params->execution.num_workers;
  *size = sizes.empty ? 0 : reformer::layout_hash_workspace(sizes, workers, nullptr).size;
  return REFORMER_OK;
}

reformer_status reformer_cpu_lsh_buckets(const reformer_lsh_buckets_params* params) noexcept {
  reformer::HashJob job;
  auto status = reformer::check_lsh_buckets(params, reformer::Extent::kCall, &job.sizes);
  if (status != REFORMER_OK || job.sizes.empty) return status;
  const reformer_execution& execution = params->execution;
  const auto workspace =
      reformer::layout_hash_workspace(job.sizes, execution.num_workers, execution.workspace);
  status = reformer::check_workspace("LSHBuckets", execution, workspace.size);
  if (status != REFORMER_OK) return status;
  job.dtype = params->query_key.dtype;
  job.query_key = params->query_key.data;
  job.rotations = static_cast<const float*>(params->rotations.data);
  job.mask = static_cast<const int32_t*>(params->attention_mask.data);
  job.buckets = static_cast<int32_t*>(params->buckets.data);
  const bool counted = params->num_factors > 0;
  job.factors = counted ? params->num_buckets : &job.sizes.masked_bucket;
  job.num_factors = counted ? params->num_factors : 1;
  reformer::run_hash(job, workspace, execution);
  return REFORMER_OK;
}
