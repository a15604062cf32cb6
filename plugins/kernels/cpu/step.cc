#include "kernels/cpu/step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/attention_checks.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/step.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/exponentiate-inl.h"
#include "kernels/cpu/rank-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// One row's head in the tensors.
template <typename T>
struct Head {
  const T* query;   // [D]
  const T* keys;    // of the row's first slot
  const T* values;  // likewise
  T* output;        // [D]
  size_t size;      // D
  size_t stride;    // H*D, elements from one slot to the next
};

// What a round has added up so far: result = sum exp(logit - highest) v.
struct Running {
  float highest = -std::numeric_limits<float>::max();
  float sum = 0;
};

// The first `count` elements, then zeros.
template <typename T>
HWY_INLINE VF load_part(const T* source, size_t count) {
  T rest[kLanes];
  std::memset(static_cast<void*>(rest), 0, sizeof(rest));
  std::memcpy(static_cast<void*>(rest), source, count * sizeof(T));
  return load_floats(rest);
}

// visit(vector, offset) for every vector of a row of `size` elements.
template <typename T, typename Visit>
HWY_INLINE void visit_row(const T* row, size_t size, const Visit& visit) {
  const size_t lanes = hn::Lanes(F32());
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) visit(load_floats(row + i), i);
  if (i < size) visit(load_part(row + i, size - i), i);
}

template <typename T>
HWY_INLINE void prefetch_slot(const Head<T>& head, int32_t slot) {
  const size_t offset = static_cast<size_t>(slot) * head.stride;
  for (size_t i = 0; i < head.size; i += kCacheLine / sizeof(T)) {
    hwy::Prefetch(head.keys + offset + i);
    hwy::Prefetch(head.values + offset + i);
  }
}

// The logit of one key, which LSH normalises: q . k / (sqrt(mean(k^2) + eps) sqrt(D)).
template <typename T>
HWY_INLINE float score_key(const StepJob& job, const Head<T>& head, const float* query,
                           const T* key) {
  const F32 df;
  VF products = hn::Zero(df);
  VF squares = hn::Zero(df);
  visit_row(key, head.size, [&](VF values, size_t i) HWY_ATTR {
    products = hn::MulAdd(values, hn::Load(df, query + i), products);
    squares = hn::MulAdd(values, values, squares);
  });
  const float size = static_cast<float>(head.size);
  float norm = std::sqrt(size);
  if (job.shared_query_key) {
    const float square = hn::GetLane(hn::SumOfLanes(df, squares));
    norm *= std::sqrt(square / size + job.key_norm_epsilon);
  }
  return hn::GetLane(hn::SumOfLanes(df, products)) / norm;
}

// Takes `count` slots of the cache into the round. `self`: the newest token's own slot, or -1.
template <typename T>
HWY_INLINE void attend_slots(const StepJob& job, const Head<T>& head, const StepScratch& scratch,
                             size_t count, int32_t self, Running& running) {
  const F32 df;
  constexpr size_t kAhead = 8;  // slots whose memory is asked for before it is needed
  const size_t columns = round_up(count, kLanes);
  float highest = running.highest;
  for (size_t i = 0; i < std::min(kAhead, count); ++i) prefetch_slot(head, scratch.slots[i]);
  for (size_t i = 0; i < count; ++i) {
    if (i + kAhead < count) prefetch_slot(head, scratch.slots[i + kAhead]);
    const int32_t slot = scratch.slots[i];
    const T* key = head.keys + static_cast<size_t>(slot) * head.stride;
    scratch.logits[i] = slot == self ? job.self_logit : score_key(job, head, scratch.query, key);
    highest = std::max(highest, scratch.logits[i]);
  }
  std::fill(scratch.logits + count, scratch.logits + columns,
            -std::numeric_limits<float>::infinity());
  const float shrink = running.sum == 0 ? 0.0f : std::exp(running.highest - highest);
  running.sum = running.sum * shrink + exponentiate_row(highest, columns, scratch.logits);
  running.highest = highest;
  const size_t width = round_up(head.size, kLanes);
  for (size_t i = 0; i < width; i += hn::Lanes(df)) {
    hn::Store(hn::Mul(hn::Load(df, scratch.result + i), hn::Set(df, shrink)), df,
              scratch.result + i);
  }
  for (size_t i = 0; i < count; ++i) {
    const VF weight = hn::Set(df, scratch.logits[i]);
    const T* value = head.values + static_cast<size_t>(scratch.slots[i]) * head.stride;
    visit_row(value, head.size, [&](VF values, size_t j) HWY_ATTR {
      const VF sum = hn::MulAdd(weight, values, hn::Load(df, scratch.result + j));
      hn::Store(sum, df, scratch.result + j);
    });
  }
}

// Ranks [begin, end) of one round.
struct Range {
  int64_t round;
  int64_t begin;
  int64_t end;
};

// visit(range) for the chunks of a window, those that follow one another together. Virtual padding
// has no weight: the token itself, at least, has more.
template <typename Visit>
HWY_INLINE void visit_window(const AttentionSizes& sizes, int64_t chunk, const Visit& visit) {
  const int64_t per_round = sizes.padded_length / sizes.chunk_length;
  const int64_t chunks = per_round * sizes.rounds;
  Range range{-1, 0, 0};
  const auto flush = [&]() HWY_ATTR {
    range.end = std::min(range.end, sizes.length);
    if (range.begin < range.end) visit(range);
  };
  for (int64_t shift = -sizes.before; shift <= 0; ++shift) {
    if (!sizes.wraps && chunk + shift < 0) continue;
    // A neighbour that is farther away than there are chunks is the chunk itself.
    const int64_t wanted = shift < -chunks ? chunk : (chunk + shift + chunks) % chunks;
    const int64_t begin = wanted % per_round * sizes.chunk_length;
    if (wanted / per_round == range.round && begin == range.end) {
      range.end += sizes.chunk_length;
      continue;
    }
    flush();
    range = {wanted / per_round, begin, begin + sizes.chunk_length};
  }
  flush();
}

// Adds a round to the ones before; in the last round `total` becomes the output. Every logsumexp is
// rounded to float32 before it is subtracted, as the contract wants.
HWY_INLINE void add_round(const StepScratch& scratch, size_t width, bool first, bool last,
                          const Running& round, Running& rounds) {
  const F32 df;
  const float lse = round.highest + std::log(round.sum);
  const float highest = std::max(rounds.highest, lse);
  float old_scale = first ? 0.0f : std::exp(rounds.highest - highest);
  float new_scale = std::exp(lse - highest);
  rounds.sum = rounds.sum * old_scale + new_scale;
  rounds.highest = highest;
  if (last) {
    const float finish = std::exp(highest - (highest + std::log(rounds.sum)));
    old_scale *= finish;
    new_scale *= finish;
  }
  new_scale *= std::exp(round.highest - lse);
  for (size_t i = 0; i < width; i += hn::Lanes(df)) {
    VF sum = hn::Mul(hn::Set(df, new_scale), hn::Load(df, scratch.result + i));
    if (!first) {
      sum = hn::MulAdd(hn::Set(df, old_scale), hn::Load(df, scratch.total + i), sum);
    }
    hn::Store(sum, df, scratch.total + i);
  }
}

// Where the slots of a range are: by their rank among the buckets, or in their own order.
HWY_INLINE size_t list_slots(const StepJob& job, const AttentionSizes& sizes,
                             const int32_t* buckets, const Range& range, int64_t own_round,
                             const Ranks& own, const StepScratch& scratch) {
  int32_t* slots = scratch.slots;
  if (buckets == nullptr || sizes.dense) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      slots[i - range.begin] = static_cast<int32_t>(i % job.sizes.capacity);
    }
    return static_cast<size_t>(range.end - range.begin);
  }
  const int32_t* round = buckets + range.round * job.sizes.capacity;
  if (range.round == own_round) {
    return collect_ranks(round, sizes.length, range.begin, range.end, own, scratch.candidates,
                         slots);
  }
  const Ranks ranks = survey_round(round, sizes.length);
  return collect_ranks(round, sizes.length, range.begin, range.end, ranks, scratch.candidates,
                       slots);
}

template <typename T>
HWY_INLINE void step_pair(const StepJob& job, const StepScratch& scratch, int64_t pair,
                          const AttentionSizes& sizes) {
  const int64_t row = pair / job.sizes.heads;
  const int64_t first = pair % job.sizes.heads * sizes.head_size;  // elements
  const int64_t width = job.sizes.heads * sizes.head_size;
  const int64_t token = row * job.sizes.length * width + first;
  const int64_t cache = row * job.sizes.capacity * width + first;
  const Head<T> head{
      static_cast<const T*>(job.query) + token,  static_cast<const T*>(job.keys) + cache,
      static_cast<const T*>(job.values) + cache, static_cast<T*>(job.output) + token,
      static_cast<size_t>(sizes.head_size),      static_cast<size_t>(width)};
  const int32_t* buckets = job.buckets;
  if (buckets != nullptr) buckets += pair * job.sizes.rounds * job.sizes.capacity;
  const size_t padded = round_up(head.size, kLanes);
  const int64_t newest = (sizes.length - 1) % job.sizes.capacity;
  const int32_t self = job.self_logit == kNoSelfLogit ? -1 : static_cast<int32_t>(newest);
  load_row(head.query, head.size, scratch.query);
  Running rounds;
  for (int64_t round = 0; round < sizes.rounds; ++round) {
    Ranks own{};
    own.own = sizes.length - 1;
    if (buckets != nullptr && !sizes.dense) {
      own = survey_round(buckets + round * job.sizes.capacity, sizes.length);
    }
    const int64_t chunk =
        round * (sizes.padded_length / sizes.chunk_length) + own.own / sizes.chunk_length;
    Running running;
    std::fill(scratch.result, scratch.result + padded, 0.0f);
    visit_window(sizes, chunk, [&](const Range& range) HWY_ATTR {
      const size_t count = list_slots(job, sizes, buckets, range, round, own, scratch);
      attend_slots(job, head, scratch, count, self, running);
    });
    add_round(scratch, padded, round == 0, round + 1 == sizes.rounds, running, rounds);
  }
  store_row(scratch.total, head.size, head.output);
}

void step_pairs(const StepJob& job, const StepScratch& scratch, int64_t begin, int64_t end) {
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t row = pair / job.sizes.heads;
    if (job.new_lengths[row] != 1) continue;
    const AttentionSizes sizes = row_sizes(job, int64_t{job.lengths[row]} + 1);
    dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.dtype, [&](auto element) HWY_ATTR {
      step_pair<decltype(element)>(job, scratch, pair, sizes);
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reformer {

StepScratch layout_step_scratch(const StepJob& job, WorkspaceArena& arena) {
  const size_t width = round_up(static_cast<size_t>(job.sizes.head_size), kLanes);
  const size_t keys = round_up(static_cast<size_t>(count_step_keys(job)), kLanes);
  StepScratch scratch{};
  // Two windows' and whatever shares a bucket with their ends; nothing where there are no buckets.
  scratch.candidates.room = !job.shared_query_key ? 0 : 4 * keys + 512;
  scratch.candidates.positions = arena.allocate<int32_t>(scratch.candidates.room + 2 * kLanes);
  scratch.candidates.buckets = arena.allocate<int32_t>(scratch.candidates.room + 2 * kLanes);
  scratch.query = arena.allocate<float>(width);
  scratch.result = arena.allocate<float>(width);
  scratch.total = arena.allocate<float>(width);
  scratch.slots = arena.allocate<int32_t>(keys);
  scratch.logits = arena.allocate<float>(keys);
  return scratch;
}

AttentionSizes row_sizes(const StepJob& job, int64_t length) {
  AttentionSizes sizes;
  sizes.batch = 1;
  sizes.length = length;
  sizes.heads = job.sizes.heads;
  sizes.head_size = job.sizes.head_size;
  cut_chunks(job.chunking, job.dense_threshold, &sizes);
  sizes.wraps = job.wraps;
  sizes.rounds = sizes.dense ? 1 : job.sizes.rounds;
  sizes.empty = length == 0;
  return sizes;
}

StepFunction select_step() {
#if HWY_TARGETS & HWY_AVX3
  if (cpu_target() >= CpuTarget::kAvx512) return &N_AVX3::step_pairs;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (cpu_target() >= CpuTarget::kAvx2) return &N_AVX2::step_pairs;
#endif
  return &HWY_STATIC_DISPATCH(step_pairs);
}

}  // namespace reformer
#endif  // HWY_ONCE
