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

// Asks for the keys and values of slots before they are needed, in the order of the list.
template <typename T>
class Prefetch {
 public:
  Prefetch() = default;
  Prefetch(const Head<T>& head, const int32_t* slots, size_t count)
      : keys_(head.keys),
        values_(head.values),
        size_(head.size),
        stride_(head.stride),
        slots_(slots),
        count_(count) {}

  // Until the first `wanted` slots have been asked for.
  HWY_INLINE void reach(size_t wanted) {
    for (const size_t end = std::min(wanted, count_); next_ < end; ++next_) {
      const size_t offset = static_cast<size_t>(slots_[next_]) * stride_;
      for (size_t i = 0; i < size_; i += kCacheLine / sizeof(T)) {
        // To the second level: more lines than the first can wait for are on their way at once.
        __builtin_prefetch(keys_ + offset + i, 0, 2);
        __builtin_prefetch(values_ + offset + i, 0, 2);
      }
    }
  }
  HWY_INLINE void advance() { reach(next_ + 1); }
  size_t count() const { return count_; }

 private:
  const T* keys_ = nullptr;
  const T* values_ = nullptr;
  size_t size_ = 0;
  size_t stride_ = 0;
  const int32_t* slots_ = nullptr;
  size_t count_ = 0;
  size_t next_ = 0;
};

// A round of one row's head.
template <typename T>
struct Turn {
  Head<T> head{};
  AttentionSizes sizes;
  const int32_t* buckets = nullptr;  // [R, P] of the row's head; null: a ring
  bool counts = false;               // whether slots are found by counting over buckets
  int32_t self = -1;                 // the newest token's own slot, where its logit is another
  int64_t round = 0;
  Ranks ranks{};             // what is known of the round
  int64_t chunk = 0;         // of the newest token, counted over all rounds
  int32_t* slots = nullptr;  // of the window's ranges, one behind the other
  Prefetch<T> prefetch;      // of those that are listed
};

// q . k and k . k of one key.
template <typename T>
HWY_INLINE void multiply_key(const Head<T>& head, const float* query, const T* key, float& product,
                             float& square) {
  const F32 df;
  VF products = hn::Zero(df);
  VF squares = hn::Zero(df);
  visit_row(key, head.size, [&](VF values, size_t i) HWY_ATTR {
    products = hn::MulAdd(values, hn::Load(df, query + i), products);
    squares = hn::MulAdd(values, values, squares);
  });
  product = hn::GetLane(hn::SumOfLanes(df, products));
  square = hn::GetLane(hn::SumOfLanes(df, squares));
}

// Makes logits of `count` products, -infinity behind them, and returns the highest: q . k /
// sqrt(D), which LSH normalises, q . k / (sqrt(mean(k^2) + eps) sqrt(D)). `self` is the index of
// the token itself.
HWY_INLINE float score_keys(const StepJob& job, size_t head_size, const StepScratch& scratch,
                            size_t count, size_t self) {
  const F32 df;
  const size_t columns = round_up(count, kLanes);
  const VF size = hn::Set(df, static_cast<float>(head_size));
  std::fill(scratch.squares + count, scratch.squares + columns, 0.0f);
  for (size_t i = 0; i < columns; i += hn::Lanes(df)) {
    VF norm = hn::Sqrt(size);
    if (job.shared_query_key) {
      const VF mean = hn::Div(hn::Load(df, scratch.squares + i), size);
      norm = hn::Mul(norm, hn::Sqrt(hn::Add(mean, hn::Set(df, job.key_norm_epsilon))));
    }
    hn::Store(hn::Div(hn::Load(df, scratch.logits + i), norm), df, scratch.logits + i);
  }
  if (self < count) scratch.logits[self] = job.self_logit;
  std::fill(scratch.logits + count, scratch.logits + columns,
            -std::numeric_limits<float>::infinity());
  VF highest = hn::Load(df, scratch.logits);
  for (size_t i = hn::Lanes(df); i < columns; i += hn::Lanes(df)) {
    highest = hn::Max(highest, hn::Load(df, scratch.logits + i));
  }
  return hn::GetLane(hn::MaxOfLanes(df, highest));
}

// result += weights[i] * value of slots[i], slot after slot.
template <typename T>
HWY_INLINE void add_values(const Head<T>& head, const int32_t* HWY_RESTRICT slots, size_t count,
                           const float* HWY_RESTRICT weights, float* HWY_RESTRICT result) {
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  size_t j = 0;
  for (; j + 4 * lanes <= head.size; j += 4 * lanes) {
    VF sum0 = hn::Load(df, result + j);
    VF sum1 = hn::Load(df, result + j + lanes);
    VF sum2 = hn::Load(df, result + j + 2 * lanes);
    VF sum3 = hn::Load(df, result + j + 3 * lanes);
    for (size_t i = 0; i < count; ++i) {
      const VF weight = hn::Set(df, weights[i]);
      const T* value = head.values + static_cast<size_t>(slots[i]) * head.stride + j;
      sum0 = hn::MulAdd(weight, load_floats(value), sum0);
      sum1 = hn::MulAdd(weight, load_floats(value + lanes), sum1);
      sum2 = hn::MulAdd(weight, load_floats(value + 2 * lanes), sum2);
      sum3 = hn::MulAdd(weight, load_floats(value + 3 * lanes), sum3);
    }
    hn::Store(sum0, df, result + j);
    hn::Store(sum1, df, result + j + lanes);
    hn::Store(sum2, df, result + j + 2 * lanes);
    hn::Store(sum3, df, result + j + 3 * lanes);
  }
  for (size_t i = 0; i < count && j < head.size; ++i) {
    const VF weight = hn::Set(df, weights[i]);
    const T* value = head.values + static_cast<size_t>(slots[i]) * head.stride + j;
    visit_row(value, head.size - j, [&](VF values, size_t k) HWY_ATTR {
      const VF sum = hn::MulAdd(weight, values, hn::Load(df, result + j + k));
      hn::Store(sum, df, result + j + k);
    });
  }
}

// Takes slots [begin, begin + count) of the turn into its round, and asks for the `next` turn's.
template <typename T>
HWY_INLINE void attend_slots(const StepJob& job, Turn<T>& turn, const StepScratch& scratch,
                             size_t begin, size_t count, Prefetch<T>& next, Running& running) {
  const F32 df;
  constexpr size_t kAhead = 16;  // slots whose memory is asked for before it is needed
  const Head<T>& head = turn.head;
  const int32_t* slots = turn.slots + begin;
  const size_t columns = round_up(count, kLanes);
  size_t own = count;
  for (size_t i = 0; i < count; ++i) {
    turn.prefetch.reach(begin + i + kAhead);
    next.advance();
    const T* key = head.keys + static_cast<size_t>(slots[i]) * head.stride;
    multiply_key(head, scratch.query, key, scratch.logits[i], scratch.squares[i]);
    if (slots[i] == turn.self) own = i;
  }
  std::fill(scratch.logits + count, scratch.logits + columns, 0.0f);
  const float highest = std::max(running.highest, score_keys(job, head.size, scratch, count, own));
  const float shrink = running.sum == 0 ? 0.0f : std::exp(running.highest - highest);
  running.sum = running.sum * shrink + exponentiate_row(highest, columns, scratch.logits);
  running.highest = highest;
  const size_t width = round_up(head.size, kLanes);
  for (size_t i = 0; i < width; i += hn::Lanes(df)) {
    hn::Store(hn::Mul(hn::Load(df, scratch.result + i), hn::Set(df, shrink)), df,
              scratch.result + i);
  }
  add_values(head, slots, count, scratch.logits, scratch.result);
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

// Writes the slots of a range: by their rank among the round's buckets, or in their own order.
template <typename T>
HWY_INLINE void list_range(const StepJob& job, const StepScratch& scratch, const Turn<T>& turn,
                           const Range& range, int32_t* slots) {
  const int64_t wanted = range.end - range.begin;
  int64_t found = 0;
  if (turn.counts) {
    const int32_t* round = turn.buckets + range.round * job.sizes.capacity;
    const int64_t length = turn.sizes.length;
    const auto nothing = [](size_t) HWY_ATTR {};
    const Ranks ranks =
        range.round == turn.round ? turn.ranks : survey_round(round, length, nothing);
    found = static_cast<int64_t>(
        collect_ranks(round, length, range.begin, range.end, ranks, scratch.candidates, slots));
  }
  // Of buckets, all are found, unless they are no buckets: then any slots are as good.
  for (; found < wanted; ++found) {
    slots[found] = static_cast<int32_t>((range.begin + found) % job.sizes.capacity);
  }
}

// Lists the slots of a turn; meanwhile asks for those of the turn `before`.
template <typename T>
HWY_INLINE void list_slots(const StepJob& job, const StepScratch& scratch, Turn<T>& turn,
                           Prefetch<T>& before) {
  const AttentionSizes& sizes = turn.sizes;
  const size_t length = static_cast<size_t>(sizes.length);
  turn.ranks.own = sizes.length - 1;
  if (turn.counts) {
    // What is asked for at each vector of buckets sums up to all slots.
    const size_t vectors = length / hn::Lanes(Offsets::D()) + 1;
    size_t due = 0;
    const auto prefetch = [&](size_t) HWY_ATTR {
      due += before.count();
      for (; due >= vectors; due -= vectors) before.advance();
    };
    const int32_t* round = turn.buckets + turn.round * job.sizes.capacity;
    turn.ranks = survey_round(round, sizes.length, prefetch);
  }
  turn.chunk =
      turn.round * (sizes.padded_length / sizes.chunk_length) + turn.ranks.own / sizes.chunk_length;
  size_t count = 0;
  bool fits = true;
  visit_window(sizes, turn.chunk, [&](const Range& range) HWY_ATTR {
    const size_t wanted = static_cast<size_t>(range.end - range.begin);
    fits = fits && count + wanted <= scratch.most_slots;
    if (!fits) return;
    list_range(job, scratch, turn, range, turn.slots + count);
    count += wanted;
  });
  turn.prefetch = Prefetch<T>(turn.head, turn.slots, count);
}

// The turns of pairs, one after the other: while the slots of one are listed, which is a pass over
// integers, the keys and values of the one before are on their way.
template <typename T>
class Pipeline {
 public:
  Pipeline(const StepJob& job, const StepScratch& scratch) : job_(job), scratch_(scratch) {}

  HWY_INLINE void add_pair(int64_t pair, const AttentionSizes& sizes) {
    Turn<T> turn = begin_turn(pair, sizes);
    for (turn.round = 0; turn.round < sizes.rounds; ++turn.round) {
      turn.slots = scratch_.slots[count_ % 2];
      list_slots(job_, scratch_, turn, last_.prefetch);
      attend_last(turn.prefetch);
      last_ = turn;
      ++count_;
    }
  }

  void finish() {
    Prefetch<T> none;
    attend_last(none);
  }

 private:
  Turn<T> begin_turn(int64_t pair, const AttentionSizes& sizes) const {
    const int64_t row = pair / job_.sizes.heads;
    const int64_t first = pair % job_.sizes.heads * sizes.head_size;  // elements
    const int64_t width = job_.sizes.heads * sizes.head_size;
    const int64_t token = row * job_.sizes.length * width + first;
    const int64_t cache = row * job_.sizes.capacity * width + first;
    Turn<T> turn;
    turn.head = {
        static_cast<const T*>(job_.query) + token,  static_cast<const T*>(job_.keys) + cache,
        static_cast<const T*>(job_.values) + cache, static_cast<T*>(job_.output) + token,
        static_cast<size_t>(sizes.head_size),       static_cast<size_t>(width)};
    turn.sizes = sizes;
    if (job_.buckets != nullptr) {
      turn.buckets = job_.buckets + pair * job_.sizes.rounds * job_.sizes.capacity;
      turn.counts = !sizes.dense;
    }
    if (job_.self_logit != kNoSelfLogit) {
      turn.self = static_cast<int32_t>((sizes.length - 1) % job_.sizes.capacity);
    }
    return turn;
  }

  // Attends the turn that was listed last, if there is one; asks for the slots of the `next`.
  HWY_INLINE void attend_last(Prefetch<T>& next) {
    if (count_ == 0) return;
    const Head<T>& head = last_.head;
    const bool first = last_.round == 0;
    const size_t padded = round_up(head.size, kLanes);
    if (first) {
      load_row(head.query, head.size, scratch_.query);
      rounds_ = Running();
    }
    Running running;
    std::fill(scratch_.result, scratch_.result + padded, 0.0f);
    // Where there are buckets, the survey of the next turn's successor asks for them.
    Prefetch<T> none;
    Prefetch<T>& meanwhile = last_.counts ? none : next;
    size_t begin = 0;
    size_t listed = last_.prefetch.count();
    visit_window(last_.sizes, last_.chunk, [&](const Range& range) HWY_ATTR {
      const size_t count = static_cast<size_t>(range.end - range.begin);
      if (begin + count > listed) {  // of a window that comes round to the same tokens again
        list_range(job_, scratch_, last_, range, last_.slots);
        last_.prefetch = Prefetch<T>(head, last_.slots, count);
        begin = listed = 0;
      }
      attend_slots(job_, last_, scratch_, begin, count, meanwhile, running);
      begin += count;
    });
    const bool is_last = last_.round + 1 == last_.sizes.rounds;
    add_round(scratch_, padded, first, is_last, running, rounds_);
    if (is_last) store_row(scratch_.total, head.size, head.output);
  }

  const StepJob& job_;
  const StepScratch& scratch_;
  Turn<T> last_;
  int64_t count_ = 0;  // turns that were listed
  Running rounds_;     // of the last turn's pair
};

void step_pairs(const StepJob& job, const StepScratch& scratch, int64_t begin, int64_t end) {
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(job.dtype, [&](auto element) HWY_ATTR {
    Pipeline<decltype(element)> pipeline(job, scratch);
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t row = pair / job.sizes.heads;
      if (job.new_lengths[row] != 1) continue;
      pipeline.add_pair(pair, row_sizes(job, int64_t{job.lengths[row]} + 1));
    }
    pipeline.finish();
  });
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
  scratch.candidates.room = !job.shared_query_key ? 0 : 4 * keys + 4096;
  scratch.candidates.positions = arena.allocate<int32_t>(scratch.candidates.room + 2 * kLanes);
  scratch.candidates.buckets = arena.allocate<int32_t>(scratch.candidates.room + 2 * kLanes);
  scratch.query = arena.allocate<float>(width);
  scratch.result = arena.allocate<float>(width);
  scratch.total = arena.allocate<float>(width);
  scratch.most_slots = keys;
  for (int32_t*& slots : scratch.slots) slots = arena.allocate<int32_t>(keys + kLanes);
  scratch.logits = arena.allocate<float>(keys);
  scratch.squares = arena.allocate<float>(keys);
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
