// A new token's attention to slots of the caches. Compiled per target.
#if defined(REFORMER_STEP_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_STEP_ATTEND_INL_H_
#undef REFORMER_STEP_ATTEND_INL_H_
#else
#define REFORMER_STEP_ATTEND_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/exponentiate-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/step_slots-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

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

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
