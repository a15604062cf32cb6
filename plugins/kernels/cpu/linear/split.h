// How Linear's work is shared among the threads, for int8 and bfloat16.
#pragma once

#include <cstdint>

#include "kernels/common/validation.h"
#include "kernels/cpu/linear/packed.h"
#include "kernels/cpu/linear/products.h"

namespace reformer {

// Rows multiplied by a panel before the next panel's turn, at most: with a row of 1,024 bytes they
// stay in a second-level cache. A multiple of every kernel's block.
constexpr int64_t kStripRows = 96;
static_assert(kStripRows % kRowBlock == 0);

// A task is a strip of rows by a group of panels.
struct Split {
  int64_t strip_rows = kStripRows;
  int64_t panels = 1;  // of a group
  int64_t groups = 1;
  bool converts_before = false;    // all rows; else a task does its own, near as they are then
  int64_t turn_rows = kStripRows;  // multiplied by a panel before they are finished
};

// `x_bytes`: of an element of x. `sets_tiles`: of the products.
Split choose_split(const LinearSizes& sizes, const PackedLinear& packed, int64_t x_bytes,
                   bool sets_tiles, int64_t num_workers);

}  // namespace reformer
