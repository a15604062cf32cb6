// C[m, n] = A[m, k] . B[k, n] (or +=) on tiles that stay in cache, float32. Compiled per target.
#if defined(REFORMER_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFORMER_MATMUL_INL_H_
#undef REFORMER_MATMUL_INL_H_
#else
#define REFORMER_MATMUL_INL_H_
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/highway.h"
#include "kernels/cpu/tiles.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Element (i, p) is at data[i * row + p * column].
struct MatrixView {
  const float* data;
  size_t row;
  size_t column;
};

// Rows by vectors kept in registers: kBlockRows * kBlockVectors accumulators, kBlockVectors of B
// and one of A must fit the register file (32 registers on AVX-512 and NEON, 16 on AVX2).
#if HWY_TARGET == HWY_AVX2
constexpr size_t kBlockRows = 6;
constexpr size_t kBlockVectors = 2;
#else
constexpr size_t kBlockRows = 6;
constexpr size_t kBlockVectors = 4;
#endif

template <size_t kRows, size_t kVectors, bool kAdd>
HWY_INLINE void multiply_block(size_t k, const MatrixView& a, const float* HWY_RESTRICT b,
                               size_t b_row, float* HWY_RESTRICT c, size_t c_row) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  V sum[kRows][kVectors];
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) {
      sum[i][j] = kAdd ? hn::Load(d, c + i * c_row + j * lanes) : hn::Zero(d);
    }
  }
  const float* a_column = a.data;
  for (size_t p = 0; p < k; ++p) {
    V b_vectors[kVectors];
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) b_vectors[j] = hn::Load(d, b + j * lanes);
    HWY_UNROLL(8)
    for (size_t i = 0; i < kRows; ++i) {
      const V a_value = hn::Set(d, a_column[i * a.row]);
      HWY_UNROLL(4)
      for (size_t j = 0; j < kVectors; ++j) {
        sum[i][j] = hn::MulAdd(a_value, b_vectors[j], sum[i][j]);
      }
    }
    a_column += a.column;
    b += b_row;
  }
  HWY_UNROLL(8)
  for (size_t i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (size_t j = 0; j < kVectors; ++j) hn::Store(sum[i][j], d, c + i * c_row + j * lanes);
  }
}

// Turns a row count known at run time into the kernel built for it.
template <size_t kRows, size_t kVectors, bool kAdd>
HWY_INLINE void multiply_rows(size_t rows, size_t k, const MatrixView& a, const float* b,
                              size_t b_row, float* c, size_t c_row) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      multiply_rows<kRows - 1, kVectors, kAdd>(rows, k, a, b, b_row, c, c_row);
      return;
    }
  }
  multiply_block<kRows, kVectors, kAdd>(k, a, b, b_row, c, c_row);
}

struct Nothing {
  HWY_INLINE void operator()() const {}
};

// All rows of one panel of kVectors vectors, in blocks of nearly equal height; `between` is called
// before each.
template <size_t kVectors, bool kAdd, typename Between>
HWY_NOINLINE void multiply_panel(size_t m, size_t k, MatrixView a, const float* b, size_t b_row,
                                 float* c, size_t c_row, Between& between) {
  for (size_t blocks = divide_up(m, kBlockRows); blocks > 0; --blocks) {
    between();
    const size_t rows = divide_up(m, blocks);
    multiply_rows<kBlockRows, kVectors, kAdd>(rows, k, a, b, b_row, c, c_row);
    a.data += rows * a.row;
    c += rows * c_row;
    m -= rows;
  }
}

template <size_t kVectors, bool kAdd, typename Between>
HWY_INLINE void multiply_vectors(size_t vectors, size_t m, size_t k, const MatrixView& a,
                                 const float* b, size_t b_row, float* c, size_t c_row,
                                 Between& between) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors) {
      multiply_vectors<kVectors - 1, kAdd>(vectors, m, k, a, b, b_row, c, c_row, between);
      return;
    }
  }
  multiply_panel<kVectors, kAdd>(m, k, a, b, b_row, c, c_row, between);
}

// n, b_row and c_row are multiples of kLanes, B and C aligned to cache lines.
template <bool kAdd, typename Between>
HWY_INLINE void multiply(size_t m, size_t n, size_t k, const MatrixView& a, const float* b,
                         size_t b_row, float* c, size_t c_row, Between& between) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<float>());
  size_t vectors = n / lanes;
  for (size_t panels = divide_up(vectors, kBlockVectors); panels > 0; --panels) {
    const size_t width = divide_up(vectors, panels);
    multiply_vectors<kBlockVectors, kAdd>(width, m, k, a, b, b_row, c, c_row, between);
    b += width * lanes;
    c += width * lanes;
    vectors -= width;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#endif  // include guard
