#include "kernels/cpu/norm.h"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "kernels/common/dispatch.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/select_version.h"

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

// Parts of a row: floats in memory, or sums that are added again whenever they are read.
struct Held {
  const float* values;

  template <typename Access>
  VF load(const Access access, size_t i) const {
    return access.load(values + i);
  }
};
template <typename T>
struct Sums {
  const float* stream;
  const T* update;

  template <typename Access>
  VF load(const Access access, size_t i) const {
    return hn::Add(access.load(stream + i), access.load(update + i));
  }
};

// Writes a part where there is an `out`, and adds it up.
template <typename Part>
HWY_INLINE float add_part(size_t size, const Part& part, float* out) {
  return visit_row(size, [&](const auto access, size_t i, VF total) HWY_ATTR {
    const VF values = part.load(access, i);
    if (out != nullptr) access.store(values, out + i);
    return hn::Add(total, values);
  });
}

template <typename Part>
HWY_INLINE float add_squares(size_t size, const Part& part, VF mean) {
  return visit_row(size, [&](const auto access, size_t i, VF total) HWY_ATTR {
    const VF apart = access.keep(hn::Sub(part.load(access, i), mean));
    return hn::MulAdd(apart, apart, total);
  });
}

template <typename Part, typename T>
HWY_INLINE void norm_part(size_t size, const Part& part, VF mean, VF inverse, const float* scale,
                          const float* bias, T* normed) {
  visit_row(size, [&](const auto access, size_t i, VF total) HWY_ATTR {
    const VF unit = hn::Mul(hn::Sub(part.load(access, i), mean), inverse);
    access.store(hn::MulAdd(unit, access.load(scale + i), access.load(bias + i)), normed + i);
    return total;
  });
}

// A row of parts of `size` floats side by side, which add up to `sum`. The mean square is of what
// differs from the mean: the row is in the nearest cache, and E[x^2] - E[x]^2 would lose the digits
// of a row far from zero.
template <typename T, typename... Parts>
HWY_INLINE void norm_row(const NormJob& job, float sum, T* normed, const Parts&... parts) {
  const F32 df;
  const size_t size = static_cast<size_t>(job.sizes.size);
  const float count = static_cast<float>(job.sizes.width);
  const VF mean = hn::Set(df, sum / count);
  const float squares = (add_squares(size, parts, mean) + ...);
  const VF inverse = hn::Set(df, 1.0f / std::sqrt(squares / count + job.epsilon));
  size_t offset = 0;
  const auto norm_next = [&](const auto& part) HWY_ATTR {
    norm_part(size, part, mean, inverse, job.scale + offset, job.bias + offset, normed + offset);
    offset += size;
  };
  (norm_next(parts), ...);
}

template <typename T>
HWY_INLINE void norm_rows_of(const NormJob& job, int64_t begin, int64_t end) {
  const size_t size = static_cast<size_t>(job.sizes.size);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = row * job.sizes.size;
    const Sums<T> sums{job.stream + offset, static_cast<const T*>(job.update) + offset};
    T* normed = static_cast<T*>(job.normed) + row * job.sizes.width;
    if (job.other_stream == nullptr) {
      float* out = job.stream_out + offset;
      norm_row(job, add_part(size, sums, out), normed, Held{out});
    } else {
      const Held other{job.other_stream + offset};
      const float sum = add_part(size, other, nullptr) + add_part(size, sums, nullptr);
      norm_row(job, sum, normed, other, sums);
    }
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

NormFunction select_norm() { return REFORMER_SELECT(norm_rows); }

}  // namespace reformer
#endif  // HWY_ONCE
