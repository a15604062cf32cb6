// One call's whole attention on the CPU, for the operators that need it.
#pragma once

#include <cstdint>

#include "kernels/cpu/attend.h"
#include "reformer_kernels.h"

namespace reformer {

// int32 [B * H * R] rows of buckets, `stride` elements apart.
struct BucketRows {
  const int32_t* data;  // null for local attention
  int64_t stride;
};

// Pairs (batch, head) that are best in flight at a time.
int64_t choose_group(const AttendJob& job, int32_t num_workers);

// Bytes of workspace with `most_pairs` in flight. Shorter sequences never need more.
uint64_t measure_attention(const AttendJob& job, int64_t most_pairs, int32_t num_workers);

// Sorts and attends; `job` gets its group, round and workspace here.
reformer_status run_attention(const char* op, AttendJob& job, int64_t most_pairs,
                              const reformer_execution& execution, const BucketRows& buckets);

}  // namespace reformer
