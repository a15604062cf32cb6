#include "kernels/cpu/norm.h"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "kernels/common/dispatch.h"
#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A row's vectors, the last one possibly a part: `Whole` and `Part` differ in how memory is
// reached.
struct Whole {
  template <typename T>
  VF load(const T* source) const {
    return load_floats(source);
  }
  template <typename T>
  void store(VF values, T* target) const {
    store_floats(values, target);
  }
  VF keep(VF values) const { return values; }
};

// The first `count` lanes; zeros are read into the others, and nothing is written.
struct Part {
  size_t count;

  template <typename T>
  VF load(const T* source) const {
    T rest[kLanes];
    std::memset(static_cast<void*>(rest), 0, sizeof(rest));
    std::memcpy(static_cast<void*>(rest), source, count * sizeof(T));
    return load_floats(rest);
  }
  template <typename T>
  void store(VF values, T* target) const {
    T rest[kLanes];
    store_floats(values, rest);
    std::memcpy(static_cast<void*>(target), rest, count * sizeof(T));
  }
  VF keep(VF values) const { return hn::IfThenElseZero(hn::FirstN(F32(), count), values); }
};

// visit(access, offset, accumulator) for every vector of a row of `size` floats. Four accumulators
// take turns: more additions are under way at once, and each adds up fewer numbers.
template <typename Visit>
HWY_INLINE float visit_row(size_t size, const Visit& visit) {
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  VF sums[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
  size_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    for (size_t j = 0; j < 4; ++j) sums[j] = visit(Whole(), i + j * lanes, sums[j]);
  }
  for (; i + lanes <= size; i += lanes) sums[0] = visit(Whole(), i, sums[0]);
  if (i < size) sums[1] = visit(Part{size - i}, i, sums[1]);
  return hn::GetLane(
      hn::SumOfLanes(df, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
}

// The mean, then the mean square of what differs from it: the row is in the nearest cache, and
// E[x^2] - E[x]^2 would lose the digits of a row far from zero.
template <typename T>
HWY_INLINE void norm_row(const NormJob& job, const float* stream, const T* update, float* out,
                         T* normed) {
  const F32 df;
  const size_t size = static_cast<size_t>(job.sizes.size);
  const float count = static_cast<float>(size);
  const float sum = visit_row(size, [&](const auto access, size_t i, VF total) HWY_ATTR {
    const VF added = hn::Add(access.load(stream + i), access.load(update + i));
    access.store(added, out + i);
    return hn::Add(total, added);
  });
  const VF mean = hn::Set(df, sum / count);
  const float squares = visit_row(size, [&](const auto access, size_t i, VF total) HWY_ATTR {
    const VF apart = access.keep(hn::Sub(access.load(out + i), mean));
    return hn::MulAdd(apart, apart, total);
  });
  const VF inverse = hn::Set(df, 1.0f / std::sqrt(squares / count + job.epsilon));
  visit_row(size, [&](const auto access, size_t i, VF total) HWY_ATTR {
    const VF unit = hn::Mul(hn::Sub(access.load(out + i), mean), inverse);
    const VF result = hn::MulAdd(unit, access.load(job.scale + i), access.load(job.bias + i));
    access.store(result, normed + i);
    return total;
  });
}

template <typename T>
HWY_INLINE void norm_rows_of(const NormJob& job, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = row * job.sizes.size;
    norm_row(job, job.stream + offset, static_cast<const T*>(job.update) + offset,
             job.stream_out + offset, static_cast<T*>(job.normed) + offset);
  }
}

void norm_rows(const NormJob& job, int64_t begin, int64_t end) {
  dispatch_dtype<hwy::float16_t, hwy::bfloat16_t>(
      job.dtype, [&](auto element) HWY_ATTR { norm_rows_of<decltype(element)>(job, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reformer {

NormFunction select_norm() {
#if HWY_TARGETS & HWY_AVX3
  if (cpu_target() >= CpuTarget::kAvx512) return &N_AVX3::norm_rows;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (cpu_target() >= CpuTarget::kAvx2) return &N_AVX2::norm_rows;
#endif
  return &HWY_STATIC_DISPATCH(norm_rows);
}

}  // namespace reformer
#endif  // HWY_ONCE
