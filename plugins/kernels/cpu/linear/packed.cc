#include "kernels/cpu/linear/packed.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/common/arena.h"
#include "kernels/common/tensor_checks.h"
#include "kernels/cpu/linear/rows.h"

namespace reformer {
namespace {

// Words [begin, end) of one output to its column of a panel; zeros behind the last number.
void pack_words(const uint8_t* numbers, size_t bytes, size_t begin, size_t end, uint8_t* column) {
  for (size_t step = begin; step < end; ++step) {
    const size_t at = step * kWordBytes;
    uint8_t* target = column + step * kPanelStepBytes;
    if (at + kWordBytes <= bytes) {
      std::memcpy(target, numbers + at, kWordBytes);
    } else {
      std::memset(target, 0, kWordBytes);
      if (at < bytes) std::memcpy(target, numbers + at, bytes - at);
    }
  }
}

// A few words of all outputs at a time, so that what is written stays in the nearest cache.
void pack_panel(const uint8_t* weight, size_t outputs, size_t bytes, const PackedLinear& packed,
                uint8_t* panel) {
  constexpr size_t kSteps = 16;
  if (outputs < kPanelColumns) std::memset(panel, 0, packed.panel_bytes);
  const size_t steps = packed.row_bytes / kWordBytes;
  for (size_t step = 0; step < steps; step += kSteps) {
    const size_t end = std::min(step + kSteps, steps);
    for (size_t n = 0; n < outputs; ++n) {
      pack_words(weight + n * bytes, bytes, step, end, panel + n * kWordBytes);
    }
  }
}

bool has_least_int8(const reformer_tensor& weight) {
  const auto* numbers = static_cast<const int8_t*>(weight.data);
  const size_t count = static_cast<size_t>(weight.dims[0] * weight.dims[1]);
  int8_t least = 0;
  for (size_t i = 0; i < count; ++i) least = std::min(least, numbers[i]);
  return least == std::numeric_limits<int8_t>::min();
}

// 128 times the sum of an output's numbers.
int32_t sum_surplus(const int8_t* numbers, size_t count) {
  int32_t sum = 0;
  for (size_t k = 0; k < count; ++k) sum += numbers[k];
  return static_cast<int32_t>(static_cast<uint32_t>(sum) * 128u);
}

}  // namespace

PackedLinear place_packed(void* memory, const LinearSizes& sizes, const Products& products) {
  const int64_t bytes = bytes_per_element(products.weight_dtype);
  PackedLinear packed;
  packed.num_panels = divide_up(static_cast<size_t>(sizes.outputs), kPanelColumns);
  const bool has_words = products.weight_dtype != REFORMER_FLOAT32;
  const size_t multiple = has_words ? kRowMultiple : kWordBytes;
  packed.row_bytes = round_up(static_cast<size_t>(sizes.size * bytes), multiple);
  packed.panel_bytes = packed.row_bytes * kPanelColumns;
  const size_t columns = packed.num_panels * kPanelColumns;
  WorkspaceArena arena(memory);
  packed.header = arena.allocate<PackedHeader>(1);
  packed.scales = arena.allocate<float>(columns);
  packed.bias = arena.allocate<float>(columns);
  packed.surpluses = arena.allocate<int32_t>(columns);
  packed.panels = arena.allocate<uint8_t>(packed.num_panels * packed.panel_bytes);
  packed.bytes = arena.used();
  return packed;
}

reformer_status pack_linear(const reformer_linear_params& params, const LinearSizes& sizes,
                            const Products& products, const PackedLinear& packed) {
  if (products.weight_dtype == REFORMER_INT8 && has_least_int8(params.weight)) {
    return report(params.execution, "Linear", REFORMER_ERROR_ATTRIBUTE,
                  "weight holds -128, expected numbers from -127 to 127");
  }
  std::memset(static_cast<void*>(packed.header), 0, WorkspaceArena::kCacheLine);
  *packed.header = {&products, sizes.size, sizes.outputs};
  const size_t outputs = static_cast<size_t>(sizes.outputs);
  const size_t columns = packed.num_panels * kPanelColumns;
  std::fill_n(packed.scales, columns, 0.0f);
  std::fill_n(packed.bias, columns, 0.0f);
  std::fill_n(packed.surpluses, columns, 0);
  if (params.scales.rank != 0) {
    std::copy_n(static_cast<const float*>(params.scales.data), outputs, packed.scales);
  }
  if (params.bias.rank != 0) {
    widen_values(params.bias.dtype, params.bias.data, outputs, packed.bias);
  }
  if (products.row_format == RowFormat::kBiased) {
    const auto* numbers = static_cast<const int8_t*>(params.weight.data);
    const size_t size = static_cast<size_t>(sizes.size);
    for (size_t n = 0; n < outputs; ++n) {
      packed.surpluses[n] = sum_surplus(numbers + n * size, size);
    }
  }
  const size_t bytes = static_cast<size_t>(sizes.size * bytes_per_element(products.weight_dtype));
  const auto* weight = static_cast<const uint8_t*>(params.weight.data);
  for (size_t panel = 0; panel < packed.num_panels; ++panel) {
    const size_t first = panel * kPanelColumns;
    pack_panel(weight + first * bytes, std::min(kPanelColumns, outputs - first), bytes, packed,
               packed.panels + panel * packed.panel_bytes);
  }
  return REFORMER_OK;
}

}  // namespace reformer
