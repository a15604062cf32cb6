// Linear on the CPU.
#include <algorithm>

#include "kernels/common/arena.h"
#include "kernels/common/attention_checks.h"
#include "kernels/common/validation.h"
#include "kernels/cpu/linear/dense.h"
#include "kernels/cpu/linear/packed.h"
#include "kernels/cpu/linear/products.h"
#include "kernels/cpu/linear/rows.h"
#include "kernels/cpu/linear/split.h"
#include "kernels/cpu/parallel.h"
#include "reformer_kernels.h"

namespace reformer {
namespace {

// Rows lie this much farther apart than they are long, so that they do not all fall into the same
// cache lines of a set.
constexpr size_t kRowGap = 64;
// Elements of x below which a share of the work is not worth another thread.
constexpr int64_t kLeastElements = int64_t{1} << 14;

struct LinearJob {
  LinearSizes sizes;
  const Products* products = nullptr;
  PackedLinear packed;
  Split split;
  RowsJob rows;             // of all rows, or [num_workers] of a strip's
  FinishJob finish;         // of the first row and output
  int64_t y_bytes = 0;      // of an element
  uint8_t* sums = nullptr;  // [num_workers][kStripRows][kPanelColumns] of 4 bytes
};
constexpr size_t kSumBytes = static_cast<size_t>(kStripRows) * kPanelStepBytes;

// Rows and sums of int8 or bfloat16.
void lay_out_rows(const reformer_linear_params& params, LinearJob& job, WorkspaceArena& arena) {
  const int64_t num_workers = params.execution.num_workers;
  job.split = choose_split(job.sizes, job.packed, bytes_per_element(params.x.dtype),
                           job.products->sets_tiles, num_workers);
  const int64_t held = job.split.converts_before ? job.sizes.rows : num_workers * kStripRows;
  const size_t rows = round_up(static_cast<size_t>(held), kRowBlock);
  job.rows.row_format = job.products->row_format;
  job.rows.row_bytes = job.packed.row_bytes * (job.rows.row_format == RowFormat::kWide ? 2 : 1);
  job.rows.row_stride = job.rows.row_bytes + kRowGap;
  job.rows.rows = arena.allocate<uint8_t>(rows * job.rows.row_stride);
  job.rows.units = arena.allocate<float>(rows);
  job.sums = arena.allocate<uint8_t>(static_cast<size_t>(num_workers) * kSumBytes);
}

// Lays the call out in its workspace; without one it only measures.
size_t lay_out(const reformer_linear_params& params, LinearJob& job) {
  WorkspaceArena arena(params.execution.workspace);
  if (job.products->weight_dtype != REFORMER_FLOAT32) lay_out_rows(params, job, arena);
  if (params.packed == nullptr) {
    job.packed = place_packed(arena.allocate<uint8_t>(job.packed.bytes), job.sizes, *job.products);
  }
  return arena.size();
}

void describe_job(const reformer_linear_params& params, LinearJob& job) {
  job.rows.dtype = params.x.dtype;
  job.rows.x = params.x.data;
  job.rows.size = job.sizes.size;
  job.rows.weight_dtype = params.weight.dtype;
  job.finish = {};
  job.finish.dtype = params.y.dtype;
  job.finish.activation = params.activation;
  job.finish.y = params.y.data;
  job.finish.y_row = job.sizes.outputs;
  job.y_bytes = bytes_per_element(params.y.dtype);
}

// The rows of a task, converted: `count` from row `first` on, at row `at` of the job's.
struct Strip {
  int64_t first;
  int64_t count;
  int64_t at;
};

// Some rows by one panel.
void multiply_rows(const LinearJob& job, FinishFunction finish, const Strip& strip, size_t panel,
                   uint8_t* sums) {
  const size_t column = panel * kPanelColumns;
  ProductsJob products;
  products.rows = job.rows.rows + static_cast<size_t>(strip.at) * job.rows.row_stride;
  products.row_bytes = job.rows.row_stride;
  products.num_rows = static_cast<size_t>(strip.count);
  products.panel = job.packed.panels + panel * job.packed.panel_bytes;
  products.steps = job.packed.row_bytes / kWordBytes;
  products.sums = sums;
  job.products->multiply(products);

  FinishJob rest = job.finish;
  rest.rows = products.num_rows;
  rest.columns = std::min(kPanelColumns, static_cast<size_t>(job.sizes.outputs) - column);
  rest.sums = sums;
  rest.units = job.rows.weight_dtype == REFORMER_INT8 ? job.rows.units + strip.at : nullptr;
  rest.surpluses = job.packed.surpluses + column;
  rest.scales = job.packed.scales + column;
  rest.bias = job.packed.bias + column;
  const int64_t offset = strip.first * job.sizes.outputs + static_cast<int64_t>(column);
  rest.y = static_cast<uint8_t*>(job.finish.y) + offset * job.y_bytes;
  finish(rest);
}

void multiply_panel(const LinearJob& job, FinishFunction finish, const Strip& strip, int64_t panel,
                    uint8_t* sums) {
  const int64_t most = job.split.turn_rows;
  for (int64_t row = 0; row < strip.count; row += most) {
    const Strip turn = {strip.first + row, std::min(most, strip.count - row), strip.at + row};
    multiply_rows(job, finish, turn, static_cast<size_t>(panel), sums);
  }
}

void convert_all_rows(const LinearJob& job, RowsFunction convert,
                      const reformer_execution& execution) {
  const int64_t rows = job.sizes.rows;
  const int64_t least_rows = std::max<int64_t>(1, kLeastElements / job.sizes.size);
  const int64_t grain = std::max(choose_grain(rows, execution.num_workers), least_rows);
  parallel_ranges(execution, rows, grain, [&](int64_t /*worker*/, int64_t begin, int64_t end) {
    convert(job.rows, begin, end, begin);
  });
}

void run_float32(const reformer_linear_params& params, const LinearJob& job) {
  DenseJob dense;
  dense.x = static_cast<const float*>(params.x.data);
  dense.panels = reinterpret_cast<const float*>(job.packed.panels);
  dense.bias = job.packed.bias;
  dense.y = static_cast<float*>(params.y.data);
  dense.rows = job.sizes.rows;
  dense.size = job.sizes.size;
  dense.outputs = job.sizes.outputs;
  dense.activation = params.activation;
  run_dense(dense, params.execution);
}

void run_linear(const LinearJob& job, const reformer_execution& execution) {
  const RowsFunction convert = select_rows();
  const FinishFunction finish = select_finish();
  const Split& split = job.split;
  if (split.converts_before) convert_all_rows(job, convert, execution);

  const int64_t strips = divide_up(job.sizes.rows, split.strip_rows);
  const int64_t panels = static_cast<int64_t>(job.packed.num_panels);
  parallel_ranges(
      execution, strips * split.groups, 1, [&](int64_t worker, int64_t task, int64_t /*end*/) {
        const int64_t row = task / split.groups * split.strip_rows;
        const int64_t count = std::min(split.strip_rows, job.sizes.rows - row);
        const Strip strip = {row, count, split.converts_before ? row : worker * kStripRows};
        if (!split.converts_before) convert(job.rows, row, row + count, strip.at);
        uint8_t* sums = job.sums + static_cast<size_t>(worker) * kSumBytes;
        const int64_t first = task % split.groups * split.panels;
        for (int64_t panel = first; panel < std::min(first + split.panels, panels); ++panel) {
          multiply_panel(job, finish, strip, panel, sums);
        }
      });
}

constexpr int64_t kMostBytes = int64_t{1} << 60;

const char* name_of_products(int32_t weight_dtype) {
  if (weight_dtype == REFORMER_INT8) return "int8";
  return weight_dtype == REFORMER_BFLOAT16 ? "bfloat16" : "float32";
}

// The products for a call that was checked, and the sizes of what they read.
reformer_status prepare(const reformer_linear_params& params, LinearJob& job) {
  job.products = select_products(params.weight.dtype);
  if (job.products == nullptr) {
    return report(params.execution, "Linear", REFORMER_ERROR_PROCESSOR,
                  "this processor has no instructions for %s products, or none that pay",
                  name_of_products(params.weight.dtype));
  }
  const int64_t bytes = bytes_per_element(params.weight.dtype);
  const int64_t row = job.sizes.size * bytes + int64_t{2} * kRowMultiple;
  const int64_t rows = job.sizes.rows + job.sizes.outputs + int64_t{2} * kPanelColumns;
  if (multiply_sizes({row, rows}) > kMostBytes) {
    return report(params.execution, "Linear", REFORMER_ERROR_TOO_LARGE,
                  "x and the weight have more numbers than memory could hold");
  }
  job.packed = place_packed(nullptr, job.sizes, *job.products);
  return REFORMER_OK;
}

// That a call's `packed` is what was packed for it.
reformer_status open_packed(const reformer_linear_params& params, LinearJob& job) {
  const reformer_execution& execution = params.execution;
  if (reinterpret_cast<uintptr_t>(params.packed) % WorkspaceArena::kCacheLine != 0) {
    return report(execution, "Linear", REFORMER_ERROR_ALIGNMENT,
                  "packed is at an address that is not a multiple of 64 bytes");
  }
  if (params.packed_size < job.packed.bytes) {
    return report(execution, "Linear", REFORMER_ERROR_WORKSPACE,
                  "packed has %llu bytes, expected at least %llu",
                  static_cast<unsigned long long>(params.packed_size),
                  static_cast<unsigned long long>(job.packed.bytes));
  }
  job.packed = place_packed(params.packed, job.sizes, *job.products);
  return REFORMER_OK;
}

reformer_status check_packed_header(const reformer_linear_params& params, const LinearJob& job) {
  const PackedHeader& header = *job.packed.header;
  if (header.products == job.products && header.size == job.sizes.size &&
      header.outputs == job.sizes.outputs) {
    return REFORMER_OK;
  }
  return report(params.execution, "Linear", REFORMER_ERROR_SHAPE,
                "packed was not packed for a weight [%lld, %lld] of that dtype on this processor",
                static_cast<long long>(job.sizes.outputs), static_cast<long long>(job.sizes.size));
}

}  // namespace
}  // namespace reformer

reformer_status reformer_cpu_linear_packed_size(const reformer_linear_params* params,
                                                uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::LinearJob job;
  auto status = reformer::check_linear_operands(params, reformer::Extent::kShapes, &job.sizes);
  if (status == REFORMER_OK) status = reformer::prepare(*params, job);
  if (status == REFORMER_OK) *size = job.packed.bytes;
  return status;
}

reformer_status reformer_cpu_linear_pack(const reformer_linear_params* params) noexcept {
  reformer::LinearJob job;
  auto status = reformer::check_linear_operands(params, reformer::Extent::kCall, &job.sizes);
  if (status == REFORMER_OK) status = reformer::prepare(*params, job);
  if (status != REFORMER_OK) return status;
  if (params->packed == nullptr) {
    return reformer::report(params->execution, "Linear", REFORMER_ERROR_NULL_POINTER,
                            "packed is null");
  }
  status = reformer::open_packed(*params, job);
  if (status != REFORMER_OK) return status;
  return reformer::pack_linear(*params, job.sizes, *job.products, job.packed);
}

reformer_status reformer_cpu_linear_workspace(const reformer_linear_params* params,
                                              uint64_t* size) noexcept {
  if (size == nullptr) return REFORMER_ERROR_NULL_POINTER;
  reformer::LinearJob job;
  auto status = reformer::check_linear(params, reformer::Extent::kShapes, &job.sizes);
  if (status == REFORMER_OK) status = reformer::prepare(*params, job);
  if (status == REFORMER_OK) *size = job.sizes.empty ? 0 : reformer::lay_out(*params, job);
  return status;
}

reformer_status reformer_cpu_linear(const reformer_linear_params* params) noexcept {
  reformer::LinearJob job;
  auto status = reformer::check_linear(params, reformer::Extent::kCall, &job.sizes);
  if (status == REFORMER_OK) status = reformer::prepare(*params, job);
  if (status != REFORMER_OK || job.sizes.empty) return status;
  if (params->packed != nullptr) status = reformer::open_packed(*params, job);
  if (status == REFORMER_OK && params->packed != nullptr) {
    status = reformer::check_packed_header(*params, job);
  }
  if (status != REFORMER_OK) return status;
  const size_t needed = reformer::lay_out(*params, job);
  status = reformer::check_workspace("Linear", params->execution, needed);
  if (status != REFORMER_OK) return status;
  if (params->packed == nullptr) {
    status = reformer::pack_linear(*params, job.sizes, *job.products, job.packed);
    if (status != REFORMER_OK) return status;
  }
  if (params->weight.dtype == REFORMER_FLOAT32) {
    reformer::run_float32(*params, job);
    return REFORMER_OK;
  }
  reformer::describe_job(*params, job);
  reformer::run_linear(job, params->execution);
  return REFORMER_OK;
}
