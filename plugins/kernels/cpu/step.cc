#include "kernels/cpu/step.h"

#include <algorithm>

#include "kernels/common/attention_checks.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/step.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/select_version.h"
#include "kernels/cpu/step_attend-inl.h"
#include "kernels/cpu/step_slots-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

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

StepFunction select_step() { return REFORMER_SELECT(step_pairs); }

}  // namespace reformer
#endif  // HWY_ONCE
