// LSHBuckets on the CPU.
#include "kernels/common/validation.h"
#include "kernels/cpu/hash.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tiles.h"
#include "reformer_kernels.h"

namespace reformer {

HashScratch carve_hash_scratch(const HashSizes& sizes, Carver& carver) {
  const size_t width = round_up(static_cast<size_t>(sizes.head_size), kLanes);
  HashScratch scratch;
  scratch.rows = carver.take<float>(kLanes * width);
  scratch.tokens = carver.take<float>(width * kHashTokens);
  scratch.rotated = carver.take<float>(kHashColumns * kHashTokens);
  scratch.highest = carver.take<float>(kHashTokens);
  scratch.lowest = carver.take<float>(kHashTokens);
  scratch.highest_at = carver.take<int32_t>(kHashTokens);
  scratch.lowest_at = carver.take<int32_t>(kHashTokens);
  scratch.bucket = carver.take<int32_t>(kHashTokens);
  return scratch;
}

namespace {

size_t measure_scratch(const HashSizes& sizes) {
  Carver carver(nullptr);
  carve_hash_scratch(sizes, carver);
  return carver.used();
}

uint64_t measure_workspace(const HashSizes& sizes, const reformer_execution& execution) {
  if (sizes.empty) return 0;
  return static_cast<size_t>(execution.num_workers) * measure_scratch(sizes) + kCacheLine;
}

void run_hash(const HashJob& job, const reformer_execution& execution) {
  const HashFunction hash = select_hash();
  const HashSizes& sizes = job.sizes;
  char* workspace = static_cast<char*>(align_workspace(execution.workspace));
  const size_t scratch_bytes = measure_scratch(sizes);
  const int64_t total = sizes.batch * sizes.heads * hash_blocks_per_entry(sizes);
  const int64_t grain = choose_grain(total, execution.num_workers);
  parallel_ranges(execution, total, grain, [&](int64_t worker, int64_t begin, int64_t end) {
    Carver carver(workspace + static_cast<size_t>(worker) * scratch_bytes);
    HashScratch scratch = carve_hash_scratch(sizes, carver);
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
  *size = reformer::measure_workspace(sizes, params->execution);
  return REFORMER_OK;
}

reformer_status reformer_cpu_lsh_buckets(const reformer_lsh_buckets_params* params) noexcept {
  reformer::HashJob job;
  auto status = reformer::check_lsh_buckets(params, reformer::Extent::kCall, &job.sizes);
  if (status != REFORMER_OK || job.sizes.empty) return status;
  const uint64_t needed = reformer::measure_workspace(job.sizes, params->execution);
  status = reformer::check_workspace("LSHBuckets", params->execution, needed);
  if (status != REFORMER_OK) return status;
  job.dtype = params->query_key.dtype;
  job.query_key = params->query_key.data;
  job.rotations = static_cast<const float*>(params->rotations.data);
  job.mask = static_cast<const int32_t*>(params->attention_mask.data);
  job.buckets = static_cast<int32_t*>(params->buckets.data);
  job.factors = params->num_buckets;
  job.num_factors = params->num_factors;
  reformer::run_hash(job, params->execution);
  return REFORMER_OK;
}
