// Masks, softmax and the combination over rounds, on a block of query rows. Compiled per target.
#if defined(REFORMER_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_SOFTMAX_INL_H_
#undef REFORMER_SOFTMAX_INL_H_
#else
#define REFORMER_SOFTMAX_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/exponentiate-inl.h"
#include "kernels/cpu/key_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {

// Masks one row of logits in place and returns its largest.
template <bool kAvoidSelf>
HWY_INLINE float mask_row(int32_t position, int32_t limit, float self_logit, size_t columns,
                          const AttendScratch& scratch, float* HWY_RESTRICT logits) {
  const int32_t* HWY_RESTRICT visible = scratch.segment_visible;
  const int32_t* HWY_RESTRICT positions = scratch.segment_positions;
  const float* HWY_RESTRICT fill = scratch.segment_fill;
  const F32 df;
  const I32 di;
  const auto v_limit = hn::Set(di, limit);
  const auto v_position = hn::Set(di, position);
  const VF self = hn::Set(df, self_logit);
  VF highest = hn::Set(df, -std::numeric_limits<float>::infinity());
  for (size_t j = 0; j < columns; j += hn::Lanes(df)) {
    const auto hidden = hn::Gt(hn::Load(di, visible + j), v_limit);
    VF logit = hn::IfThenElse(hn::RebindMask(df, hidden), hn::Load(df, fill + j),
                              hn::Load(df, logits + j));
    if constexpr (kAvoidSelf) {
      const auto same = hn::Eq(hn::Load(di, positions + j), v_position);
      logit = hn::IfThenElse(hn::RebindMask(df, same), self, logit);
    }
    hn::Store(logit, df, logits + j);
    highest = hn::Max(highest, logit);
  }
  return hn::GetLane(hn::MaxOfLanes(df, highest));
}

// One segment's logits [rows, columns] become weights; row_max and row_sum take them in, and
// old_scale says by how much results so far shrink.
template <bool kAvoidSelf, typename Between>
HWY_NOINLINE void weigh_segment(const AttendJob& job, size_t rows, size_t columns,
                                const AttendScratch& scratch, Between& between) {
  for (size_t i = 0; i < rows; ++i) {
    if (i % 4 == 0) between();
    float* logits = scratch.logits + i * columns;
    const int32_t position = scratch.positions[i];
    const int32_t limit = job.sizes.causal ? position : kNoLimit;
    const float seen =
        mask_row<kAvoidSelf>(position, limit, job.self_logit, columns, scratch, logits);
    const float highest = std::max(scratch.row_max[i], seen);
    const float sum = exponentiate_row(highest, columns, logits);
    const bool first = scratch.row_sum[i] == 0;  // no segment before: spare the exp
    const float shrink = first ? 0.0f : std::exp(scratch.row_max[i] - highest);
    scratch.row_sum[i] = scratch.row_sum[i] * shrink + sum;
    scratch.row_max[i] = highest;
    scratch.old_scale[i] = shrink;
  }
}

// From row_max and row_sum: the factors by which this round's result (new_scale) and the partial
// sum of the rounds before (old_scale) enter the new partial sum, or in the last round the output.
// Every logsumexp is rounded to float32 before it is subtracted, as the contract wants.
HWY_NOINLINE void combine_rounds(const AttendJob& job, int64_t group_pair, size_t rows,
                                 const AttendScratch& scratch) {
  const F32 df;
  const bool last = job.round + 1 == job.sizes.rounds;
  const int64_t start = group_pair * job.sizes.length;
  HWY_ALIGN float before_max[kQueryRows];
  HWY_ALIGN float before_sum[kQueryRows];
  for (size_t i = 0; i < kQueryRows; ++i) {
    const bool known = i < rows && job.round > 0;
    before_max[i] =
        known ? job.lse_max[start + scratch.positions[i]] : -std::numeric_limits<float>::max();
    before_sum[i] = known ? job.lse_sum[start + scratch.positions[i]] : 0.0f;
  }
  for (size_t i = 0; i < rows; i += hn::Lanes(df)) {
    const VF row_max = hn::Load(df, scratch.row_max + i);
    const VF lse = hn::Add(row_max, hn::Log(df, hn::Load(df, scratch.row_sum + i)));
    const VF normalise = hn::Exp(df, hn::Sub(row_max, lse));
    const VF old_max = hn::Load(df, before_max + i);
    const VF new_max = hn::Max(old_max, lse);
    VF old_scale = hn::Exp(df, hn::Sub(old_max, new_max));
    VF new_scale = hn::Exp(df, hn::Sub(lse, new_max));
    const VF sum = hn::MulAdd(hn::Load(df, before_sum + i), old_scale, new_scale);
    if (last) {
      const VF total = hn::Add(new_max, hn::Log(df, sum));
      const VF finish = hn::Exp(df, hn::Sub(new_max, total));
      old_scale = hn::Mul(old_scale, finish);
      new_scale = hn::Mul(new_scale, finish);
    }
    hn::Store(new_max, df, before_max + i);
    hn::Store(sum, df, before_sum + i);
    hn::Store(old_scale, df, scratch.old_scale + i);
    hn::Store(hn::Mul(new_scale, normalise), df, scratch.new_scale + i);
  }
  for (size_t i = 0; i < rows && !last; ++i) {
    job.lse_max[start + scratch.positions[i]] = before_max[i];
    job.lse_sum[start + scratch.positions[i]] = before_sum[i];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
