#include "kernels/cpu/linear/dense.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/linear/products.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear/dense.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/linear/activation-inl.h"
#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reformer {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
// Sums, vectors of the panel and a row's number fit the registers, 32 or 16.
constexpr size_t kDenseRows = HWY_TARGET == HWY_AVX3 ? 12 : 6;
constexpr size_t kDenseVectors = 2;
constexpr size_t kDenseColumns = kDenseVectors * hn::MaxLanes(F32());
constexpr size_t kLine = kCacheLine / sizeof(float);

// Some rows by kDenseColumns of a panel.
struct DenseBlock {
  const float* x;       // the first row
  size_t size;          // K, also from row to row
  bool is_first_panel;  // of these rows, which then come from far away
  bool is_first_block;  // of this panel, which then comes from far away
  const float* panel;   // its first column of these
  const float* bias;
  float* y;  // the first row's first output
  size_t y_row;
  size_t columns;  // up to kDenseColumns
  float least;     // of an output: 0 with relu
  bool is_gelu;
};

// Into the second-level cache: the nearest one is the panel's.
HWY_INLINE void prefetch_line(const float* line) { __builtin_prefetch(line, 0, 2); }

// Asks for a line of every row behind the block's, and of where its output goes.
template <size_t kRows>
HWY_INLINE void prefetch_lines(const DenseBlock& block, size_t k) {
  if (block.is_first_panel) {
    const float* x = block.x + kRows * block.size + k;
    for (size_t r = 0; r < kRows; ++r, x += block.size) prefetch_line(x);
  }
  if (k >= kDenseColumns) return;
  const float* y = block.y + k;
  for (size_t r = 0; r < kRows; ++r, y += block.y_row) prefetch_line(y);
}

// Numbers [begin, end) of the rows and of the panel, kSteps at a time, added to the sums; with
// kAsks what lies behind them in the panels is asked for.
template <size_t kRows, size_t kSteps, bool kAsks>
HWY_INLINE void add_products(const DenseBlock& block, size_t begin, size_t end,
                             VF (&sum)[kRows][kDenseVectors]) {
  constexpr size_t kAhead = 32;  // steps of the panel
  constexpr size_t kGroup = 4;
  constexpr size_t kGroups = (kRows + kGroup - 1) / kGroup;
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  const float* rows[kGroups];
  for (size_t g = 0; g < kGroups; ++g) rows[g] = block.x + g * kGroup * block.size + begin;
  const float* panel = block.panel + begin * kPanelColumns;
  const float* panel_end = block.panel + end * kPanelColumns;
  const size_t size = block.size;
  const size_t size3 = 3 * block.size;
  for (; panel != panel_end; panel += kSteps * kPanelColumns) {
    HWY_UNROLL(8)
    for (size_t step = 0; step < kSteps; ++step) {
      VF outputs[kDenseVectors];
      HWY_UNROLL(2)
      for (size_t v = 0; v < kDenseVectors; ++v) {
        if (kAsks) hwy::Prefetch(panel + (step + kAhead) * kPanelColumns + v * lanes);
        outputs[v] = hn::LoadU(df, panel + step * kPanelColumns + v * lanes);
      }
      HWY_UNROLL(16)
      for (size_t r = 0; r < kRows; ++r) {
        const size_t in_group = r % kGroup;
        const size_t offset = in_group == 3 ? size3 : in_group * size;
        const VF number = hn::Set(df, rows[r / kGroup][offset + step]);
        HWY_UNROLL(2)
        for (size_t v = 0; v < kDenseVectors; ++v) {
          sum[r][v] = hn::MulAdd(number, outputs[v], sum[r][v]);
        }
      }
    }
    HWY_UNROLL(4)
    for (size_t g = 0; g < kGroups; ++g) {
      rows[g] += kSteps;
      // Unforeseen, lest a pointer to every row is kept, which are more than there are registers.
      asm("" : "+r"(rows[g]));
    }
  }
}

// `rows` of kDenseColumns sums with their bias to y: what few blocks need, or takes long anyway.
HWY_NOINLINE void store_slowly(const DenseBlock& block, size_t rows, float* HWY_RESTRICT sums) {
  const F32 df;
  for (size_t r = 0; r < rows; ++r, sums += kDenseColumns) {
    for (size_t c = 0; block.is_gelu && c < kDenseColumns; c += hn::Lanes(df)) {
      hn::StoreU(gelu(hn::LoadU(df, sums + c)), df, sums + c);
    }
    std::memcpy(block.y + r * block.y_row, sums, block.columns * sizeof(float));
  }
}

template <size_t kRows>
HWY_INLINE void store_outputs(const DenseBlock& block, const VF (&sum)[kRows][kDenseVectors]) {
  const F32 df;
  const size_t lanes = hn::Lanes(df);
  float slow[kRows * kDenseColumns];
  const bool is_slow = block.is_gelu || block.columns != kDenseColumns;
  float* target = is_slow ? slow : block.y;
  const size_t target_row = is_slow ? kDenseColumns : block.y_row;
  const VF least = hn::Set(df, block.least);
  VF bias[kDenseVectors];
  for (size_t v = 0; v < kDenseVectors; ++v) bias[v] = hn::LoadU(df, block.bias + v * lanes);
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r, target += target_row) {
    HWY_UNROLL(2)
    for (size_t v = 0; v < kDenseVectors; ++v) {
      const VF y = hn::Add(sum[r][v], bias[v]);
      // A NaN is not below, and stays.
      hn::StoreU(hn::IfThenElse(hn::Lt(y, least), least, y), df, target + v * lanes);
    }
  }
  if (is_slow) store_slowly(block, kRows, slow);
}

template <size_t kRows>
HWY_NOINLINE void multiply_block(const DenseBlock& block) {
  VF sum[kRows][kDenseVectors];
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (size_t v = 0; v < kDenseVectors; ++v) sum[r][v] = hn::Zero(F32());
  }
  const size_t whole = block.size / kLine * kLine;
  for (size_t begin = 0; begin < whole; begin += kLine) {
    prefetch_lines<kRows>(block, begin);
    if (block.is_first_block) {
      add_products<kRows, 2, true>(block, begin, begin + kLine, sum);
    } else {
      add_products<kRows, 2, false>(block, begin, begin + kLine, sum);
    }
  }
  add_products<kRows, 1, false>(block, whole, block.size, sum);
  store_outputs(block, sum);
}

// Turns a row count known at run time into the kernel built for it.
template <size_t kRows>
HWY_INLINE void multiply_rows(size_t rows, const DenseBlock& block) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      multiply_rows<kRows - 1>(rows, block);
      return;
    }
  }
  multiply_block<kRows>(block);
}

// A panel's rows in blocks of nearly equal height. How many a block has changes no bit of any.
void multiply_dense(const DenseJob& job, size_t row, size_t rows, size_t first, size_t end) {
  DenseBlock block;
  block.size = static_cast<size_t>(job.size);
  block.y_row = static_cast<size_t>(job.outputs);
  block.least = job.activation == REFORMER_RELU ? 0.0f : -std::numeric_limits<float>::infinity();
  block.is_gelu = job.activation == REFORMER_GELU;
  const size_t first_column = first * kPanelColumns;
  const size_t columns = HWY_MIN(end * kPanelColumns, block.y_row);
  for (size_t column = first_column; column < columns; column += kDenseColumns) {
    const size_t in_panel = column % kPanelColumns;
    block.is_first_panel = column == first_column;
    block.panel = job.panels + (column - in_panel) * block.size + in_panel;
    block.bias = job.bias + column;
    block.columns = HWY_MIN(kDenseColumns, block.y_row - column);
    block.x = job.x + row * block.size;
    block.y = job.y + row * block.y_row + column;
    size_t left = rows;
    for (size_t blocks = divide_up(rows, kDenseRows); blocks > 0; --blocks) {
      const size_t count = divide_up(left, blocks);
      block.is_first_block = left == rows;
      multiply_rows<kDenseRows>(count, block);
      block.x += count * block.size;
      block.y += count * block.y_row;
      left -= count;
    }
  }
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace reformer
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reformer {
namespace {

// Rows by the outputs of panels [first, end).
using DenseFunction = void (*)(const DenseJob& job, size_t row, size_t rows, size_t first,
                               size_t end);

DenseFunction select_dense() {
#if HWY_TARGETS & HWY_AVX3
  if (cpu_target() >= CpuTarget::kAvx512) return &N_AVX3::multiply_dense;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (cpu_target() >= CpuTarget::kAvx2) return &N_AVX2::multiply_dense;
#endif
  return nullptr;
}

// Rows that are multiplied by a panel before the next panel's turn.
constexpr int64_t kDenseStrip = 96;
// Products below which a share of the work is not worth another thread.
constexpr int64_t kLeastProducts = int64_t{1} << 18;

}  // namespace

bool has_dense() { return select_dense() != nullptr; }

void run_dense(const DenseJob& job, const reformer_execution& execution) {
  const DenseFunction multiply = select_dense();
  const int64_t workers = execution.num_workers;
  const int64_t panels = divide_up(job.outputs, static_cast<int64_t>(kPanelColumns));
  const int64_t shares = std::max<int64_t>(
      1, static_cast<int64_t>(static_cast<double>(job.rows) * static_cast<double>(job.size) *
                              static_cast<double>(job.outputs) / kLeastProducts));
  // As many strips for each worker, where they are not a few among many; else panels are shared.
  int64_t strips = divide_up(job.rows, kDenseStrip);
  if (strips > workers) strips = round_up(strips, workers);
  const int64_t strip = divide_up(job.rows, strips);
  strips = divide_up(job.rows, strip);
  const int64_t wanted = std::min(divide_up(4 * workers, strips), divide_up(shares, strips));
  const int64_t taken = divide_up(panels, std::min(panels, wanted));
  const int64_t groups = divide_up(panels, taken);
  parallel_ranges(
      execution, strips * groups, 1, [&](int64_t /*worker*/, int64_t task, int64_t /*end*/) {
        const int64_t row = task / groups * strip;
        const int64_t first = task % groups * taken;
        multiply(job, static_cast<size_t>(row),
                 static_cast<size_t>(std::min(strip, job.rows - row)), static_cast<size_t>(first),
                 static_cast<size_t>(std::min(first + taken, panels)));
      });
}

}  // namespace reformer
#endif  // HWY_ONCE
