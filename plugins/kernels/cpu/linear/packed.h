// A weight as the products read it, with its scales and bias, in one block of memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/validation.h"
#include "kernels/cpu/linear/products.h"

namespace reformer {

// Says what the block holds: a call that does not fit it is refused.
struct PackedHeader {
  const Products* products;
  int64_t size;     // K
  int64_t outputs;  // N
};

// Places in the block; behind N outputs come zeros, up to a whole panel.
struct PackedLinear {
  PackedHeader* header = nullptr;
  float* scales = nullptr;       // [panels * kPanelColumns]
  float* bias = nullptr;         // likewise
  int32_t* surpluses = nullptr;  // likewise: what biased rows add to the sums
  uint8_t* panels = nullptr;     // [panels][steps][kPanelColumns][kWordBytes]
  size_t num_panels = 0;
  size_t row_bytes = 0;  // of the numbers of a row, padded
  size_t panel_bytes = 0;
  size_t bytes = 0;  // of the whole block
};

// Places in a block at `memory`, a multiple of a cache line; null only measures.
PackedLinear place_packed(void* memory, const LinearSizes& sizes, const Products& products);

// Fills a block from the operands that `params` has, every byte: the same operands give the same
// block. An error where the weight holds -128, which has no int8 of the other sign.
reformer_status pack_linear(const reformer_linear_params& params, const LinearSizes& sizes,
                            const Products& products, const PackedLinear& packed);

}  // namespace reformer
