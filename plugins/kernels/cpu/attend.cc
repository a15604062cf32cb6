#include "kernels/cpu/attend.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/key_tiles-inl.h"
#include "kernels/cpu/matmul-inl.h"
#include "kernels/cpu/segment-inl.h"
#include "kernels/cpu/select_version.h"
#include "kernels/cpu/softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

HWY_INLINE void scale_result(size_t rows, size_t width, const AttendScratch& scratch) {
  const F32 df;
  for (size_t i = 0; i < rows; ++i) {
    const VF scale = hn::Set(df, scratch.old_scale[i]);
    float* row = scratch.result + i * width;
    for (size_t j = 0; j < width; j += hn::Lanes(df)) {
      hn::Store(hn::Mul(scale, hn::Load(df, row + j)), df, row + j);
    }
  }
}

// Memory that will be needed soon, asked for a little at a time while products keep the processor
// busy: rows of one head, or in sorted order, are beyond the hardware's own prefetcher, and only so
// many reads may be under way.
class RowPrefetch {
 public:
  RowPrefetch(const AttendJob& job, const HeadRows& head)
      : head_(head), length_(job.sizes.length), element_(job.dtype == REFORMER_FLOAT32 ? 4 : 2) {
    row_bytes_ = static_cast<size_t>(job.sizes.head_size) * element_;
  }

  void add(const void* tensor, const int32_t* positions, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      if (positions[i] >= length_) continue;  // virtual padding
      rows_[count_++] = static_cast<const char*>(tensor) + head_.offset(positions[i]) * element_;
    }
  }

  HWY_INLINE void operator()() {
    constexpr size_t kBytes = 12 * kCacheLine;
    for (size_t bytes = 0; bytes < kBytes && next_ < count_; bytes += row_bytes_) {
      prefetch_row(rows_[next_++], row_bytes_);
    }
  }

 private:
  const HeadRows& head_;
  int64_t length_;
  size_t element_;  // bytes
  size_t row_bytes_;
  const char* rows_[4 * kQueryRows];
  size_t count_ = 0;
  size_t next_ = 0;
};

// The memory of this block's output and of what its chunk's successor will read.
HWY_INLINE void foresee_rows(const AttendJob& job, const QueryBlock& block,
                             const AttendScratch& scratch, RowPrefetch& prefetch) {
  const AttentionSizes& sizes = job.sizes;
  const int64_t entries = sizes.rounds * sizes.padded_length;
  const int64_t next = (block.chunk + sizes.after + 1) * sizes.chunk_length + block.first_row;
  prefetch.add(job.output, scratch.positions, block.rows);
  if (next + static_cast<int64_t>(block.rows) > entries) return;
  int32_t positions[kQueryRows];
  list_positions(job, block.pair, next, block.rows, positions);
  prefetch.add(job.key, positions, block.rows);
  prefetch.add(job.value, positions, block.rows);
  if (!job.shared_query_key) prefetch.add(job.query, positions, block.rows);
}

// Takes a segment's keys into row_max, row_sum and result = sum exp(logit - row_max) v.
HWY_INLINE void attend_segment(const AttendJob& job, size_t rows, const Segment& segment,
                               bool first, const AttendScratch& scratch, RowPrefetch& prefetch) {
  const size_t size = static_cast<size_t>(job.sizes.head_size);
  const size_t width = round_up(size, kLanes);
  const size_t columns = segment.columns;
  for (size_t t = 0; t < segment.count; ++t) {
    for (size_t row = 0; row < rows; row += kGroupRows) {
      const size_t keys = round_up(segment.keys[t][row / kGroupRows], kLanes);
      multiply<false>(std::min(kGroupRows, rows - row), keys, size,
                      {scratch.query + row * width, width, 1}, segment.tiles[t]->keys, kTileKeys,
                      scratch.logits + row * columns + segment.offsets[t], columns, prefetch);
    }
  }
  if (job.self_logit != kNoSelfLogit) {
    weigh_segment<true>(job, rows, columns, scratch, prefetch);
  } else {
    weigh_segment<false>(job, rows, columns, scratch, prefetch);
  }
  if (!first) scale_result(rows, width, scratch);
  for (size_t t = 0; t < segment.count; ++t) {
    for (size_t row = 0; row < rows; row += kGroupRows) {
      const size_t count = std::min(kGroupRows, rows - row);
      const size_t keys = segment.keys[t][row / kGroupRows];
      const MatrixView weights{scratch.logits + row * columns + segment.offsets[t], columns, 1};
      const float* values = segment.tiles[t]->values;
      float* result = scratch.result + row * width;
      if (first && t == 0) {
        multiply<false>(count, width, keys, weights, values, width, result, width, prefetch);
      } else if (keys > 0) {
        multiply<true>(count, width, keys, weights, values, width, result, width, prefetch);
      }
    }
  }
}

// Lowest row_max; kMaskedLogit when some row saw nothing.
HWY_INLINE float attend_window(const AttendJob& job, const QueryBlock& block, bool skip_hidden,
                               AttendScratch& scratch, RowPrefetch& prefetch) {
  std::fill(scratch.row_max, scratch.row_max + kQueryRows, -std::numeric_limits<float>::max());
  std::fill(scratch.row_sum, scratch.row_sum + kQueryRows, 0.0f);
  bool first = true;
  int64_t next = 0;
  for (bool more = true; more;) {
    Segment segment;
    more = collect_segment(job, block, skip_hidden, &next, scratch, &segment);
    if (segment.count == 0) continue;
    attend_segment(job, block.rows, segment, first, scratch, prefetch);
    first = false;
  }
  return *std::min_element(scratch.row_max, scratch.row_max + block.rows);
}

// partial = old_scale * partial + new_scale * result; in the last round it becomes the output.
template <typename T>
HWY_INLINE void add_result(const AttendJob& job, const QueryBlock& block, T* output,
                           const AttendScratch& scratch) {
  const F32 df;
  const HeadRows head{job.sizes, block.pair / job.sizes.heads, block.pair % job.sizes.heads};
  const size_t size = static_cast<size_t>(job.sizes.head_size);
  const size_t width = round_up(size, kLanes);
  const bool first = job.round == 0;
  const bool last = job.round + 1 == job.sizes.rounds;
  const int64_t partial_start = (block.pair - job.first_pair) * job.sizes.length;
  for (size_t i = 0; i < block.rows; ++i) {
    const int64_t position = scratch.positions[i];
    T* target = output + head.offset(position);
    float* partial = reinterpret_cast<float*>(target);
    if (job.partial != nullptr) {
      partial = job.partial + static_cast<size_t>(partial_start + position) * size;
    }
    float* before = scratch.rows;
    if (!first) load_row(partial, size, before);
    float* result = scratch.result + i * width;
    const VF new_scale = hn::Set(df, scratch.new_scale[i]);
    const VF old_scale = hn::Set(df, scratch.old_scale[i]);
    for (size_t j = 0; j < width; j += hn::Lanes(df)) {
      VF sum = hn::Mul(new_scale, hn::Load(df, result + j));
      if (!first) sum = hn::MulAdd(old_scale, hn::Load(df, before + j), sum);
      hn::Store(sum, df, result + j);
    }
    if (last) {
      store_row(result, size, target);
    } else {
      store_row(result, size, partial);
    }
  }
}

HWY_INLINE void attend_block(const AttendJob& job, const QueryBlock& block,
                             AttendScratch& scratch) {
  const HeadRows head{job.sizes, block.pair / job.sizes.heads, block.pair % job.sizes.heads};
  RowPrefetch prefetch(job, head);
  foresee_rows(job, block, scratch, prefetch);
  gather_rows(job.dtype, job.query, head, scratch.positions, block.rows, scratch.query);
  // A hidden key weighs exp(-1e9 - max): exactly 0 unless the row sees nothing at all. Only then
  // (a row whose own key has a logit of its own sees that) must hidden tiles be visited.
  const float lowest = attend_window(job, block, true, scratch, prefetch);
  if (!(lowest > 0.9f * kMaskedLogit)) attend_window(job, block, false, scratch, prefetch);
  combine_rounds(job, block.pair - job.first_pair, block.rows, scratch);
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.dtype, [&](auto element) HWY_ATTR {
    add_result(job, block, static_cast<decltype(element)*>(job.output), scratch);
  });
}

// Block `index` of the group: strip by strip, chunk by chunk, pair by pair.
HWY_INLINE QueryBlock locate_block(const AttendJob& job, int64_t index) {
  const AttentionSizes& sizes = job.sizes;
  const int64_t per_pair = blocks_per_round(sizes);
  const int64_t strip = index / (job.strip * per_pair) * job.strip;
  const int64_t per_chunk = blocks_per_chunk(sizes);
  const int64_t side_by_side = std::min(job.strip, job.group - strip) * per_chunk;
  const int64_t in_strip = index - strip * per_pair;
  const int64_t chunks = sizes.padded_length / sizes.chunk_length;
  QueryBlock block{};
  block.pair = job.first_pair + strip + in_strip % side_by_side / per_chunk;
  block.chunk = job.round * chunks + in_strip / side_by_side;
  block.first_row = in_strip % per_chunk * static_cast<int64_t>(kQueryRows);
  return block;
}

void attend_blocks(const AttendJob& job, AttendScratch& scratch, int64_t begin, int64_t end) {
  const AttentionSizes& sizes = job.sizes;
  for (int64_t index = begin; index < end; ++index) {
    QueryBlock block = locate_block(job, index);
    const int64_t rows =
        std::min(static_cast<int64_t>(kQueryRows), sizes.chunk_length - block.first_row);
    list_positions(job, block.pair, block.chunk * sizes.chunk_length + block.first_row,
                   static_cast<size_t>(rows), scratch.positions);
    // Virtual padding sorts behind everything and has no output.
    const auto padding = [&](int32_t position) { return position >= sizes.length; };
    const int32_t* stop = std::find_if(scratch.positions, scratch.positions + rows, padding);
    block.rows = static_cast<size_t>(stop - scratch.positions);
    if (block.rows == 0) continue;
    limit_groups(sizes, scratch.positions, &block);
    attend_block(job, block, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reformer {

AttendFunction select_attend() { return REFORMER_SELECT(attend_blocks); }

}  // namespace reformer
#endif  // HWY_ONCE
