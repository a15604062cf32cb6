// Which slots of the caches a new token attends to. Compiled per target.
#if defined(REFORMER_STEP_SLOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_STEP_SLOTS_INL_H_
#undef REFORMER_STEP_SLOTS_INL_H_
#else
#define REFORMER_STEP_SLOTS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/rank-inl.h"
#include "kernels/cpu/step.h"

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

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
