// What surrounds Linear's products: rows of x to what is multiplied, and sums to rows of y.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear/products.h"
#include "reformer_kernels.h"

namespace reformer {

struct RowsJob {
  int32_t dtype;         // T
  const void* x;         // T [rows, size]
  int64_t size;          // K
  int32_t weight_dtype;  // what the rows become
  RowFormat row_format;
  uint8_t* rows;      // [...][row_bytes], zeros behind a row's numbers
  size_t row_bytes;   // that are written
  size_t row_stride;  // bytes from row to row
  float* units;       // [...], of int8; NaN for a row with an infinity or a NaN
};

// Rows [begin, end) of x to int8 or bfloat16, as the rows from `at` on.
using RowsFunction = void (*)(const RowsJob& job, int64_t begin, int64_t end, int64_t at);
RowsFunction select_rows();

// `count` values of T to float32.
void widen_values(int32_t dtype, const void* source, size_t count, float* target);

// One panel's outputs of some rows.
struct FinishJob {
  int32_t dtype;       // T
  int32_t activation;  // a reformer_activation
  size_t rows;
  size_t columns;            // up to kPanelColumns
  const void* sums;          // [rows][kPanelColumns] int32 or float
  const float* units;        // [rows], null for float sums
  const int32_t* surpluses;  // [kPanelColumns], to take off the sums of int8
  const float* scales;       // [kPanelColumns]
  const float* bias;         // [kPanelColumns]
  void* y;                   // T, the first row's first output
  int64_t y_row;             // elements from row to row
};

using FinishFunction = void (*)(const FinishJob& job);
FinishFunction select_finish();

}  // namespace reformer
