#include "linear_call.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "check.h"
#include "half.h"
#include "operands.h"
#include "tensor_memory.h"

namespace reformer::test {
namespace {

constexpr size_t kErrorSize = 256;

float round_to(int32_t dtype, float value) {
  if (dtype == REFORMER_FLOAT32) return value;
  return float_from_half(dtype, half_from_float(dtype, value));
}

double gelu(double x) { return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5))); }

// What a row is multiplied with, and its unit.
std::vector<double> convert_row(const LinearCall& call, const float* row, float* unit) {
  std::vector<double> numbers(static_cast<size_t>(call.size));
  float largest = 0;
  for (int64_t k = 0; k < call.size; ++k) largest = std::max(largest, std::fabs(row[k]));
  *unit = largest / 127.0f;
  if (*unit == 0) *unit = 1;
  for (size_t k = 0; k < numbers.size(); ++k) {
    if (call.weight_dtype == REFORMER_INT8) {
      const float quotient = row[k] / *unit;
      numbers[k] = std::clamp(std::nearbyint(static_cast<double>(quotient)), -127.0, 127.0);
    } else {
      numbers[k] = static_cast<double>(round_to(call.weight_dtype, row[k]));
    }
  }
  return numbers;
}

// The error of one element as a share of what is allowed.
double measure_element(const LinearCall& call, const std::vector<double>& row, float unit, size_t n,
                       float got) {
  double sum = 0;
  double magnitude = 0;
  const float* weight = call.weight.data() + n * row.size();
  for (size_t k = 0; k < row.size(); ++k) {
    sum += row[k] * static_cast<double>(weight[k]);
    magnitude += std::fabs(row[k] * static_cast<double>(weight[k]));
  }
  const float bias = call.has_bias ? call.bias[n] : 0.0f;
  double before;
  double allowed = 0;
  if (call.weight_dtype == REFORMER_INT8) {
    const volatile float factor = unit * call.scales[n];
    const volatile float product = static_cast<float>(sum) * factor;
    before = static_cast<double>(product + bias);
  } else {
    before = sum + static_cast<double>(bias);
    allowed = 0x1p-23 * (static_cast<double>(call.size) * magnitude + std::fabs(before)) + 1e-36;
  }
  double wanted = before;
  if (call.activation == REFORMER_RELU) wanted = std::max(before, 0.0);
  if (call.activation == REFORMER_GELU) {
    wanted = gelu(before);
    allowed = 1.2 * allowed + 3e-7 * std::fabs(before) + 1e-44;
  }
  if (allowed == 0) {
    const float exact = round_to(call.dtype, static_cast<float>(wanted));
    return got == exact ? 0 : 1e9;
  }
  if (call.dtype != REFORMER_FLOAT32) allowed += 0.51 * spacing(call.dtype, wanted);
  const double error = std::fabs(static_cast<double>(got) - wanted);
  return std::isnan(error) ? 1e9 : error / allowed;
}

// Rows of zeros, of halves that lie between two whole numbers, and of odd magnitudes.
void shape_row(Random& random, int32_t dtype, float* row, int64_t size) {
  const int64_t kind = draw_int(random, 0, 7);
  for (int64_t k = 0; k < size; ++k) {
    if (kind == 0) row[k] = 0;
    if (kind == 1) row[k] = static_cast<float>(draw_int(random, -254, 254)) / 2;
    if (kind == 2) row[k] *= dtype == REFORMER_FLOAT16 ? 1e-6f : 1e-41f;
    if (kind == 3) row[k] *= dtype == REFORMER_FLOAT16 ? 1e2f : 1e30f;
    row[k] = round_to(dtype, row[k]);
  }
  if (kind == 1) row[0] = 127;
}

}  // namespace

LinearCall fill_linear(Random& random, int32_t dtype, int32_t weight_dtype, int64_t rows,
                       int64_t size, int64_t outputs) {
  LinearCall call;
  call.dtype = dtype;
  call.weight_dtype = weight_dtype;
  call.rows = rows;
  call.size = size;
  call.outputs = outputs;
  call.x = draw_values(random, dtype, rows * size, 1.0f);
  call.bias = draw_values(random, dtype, outputs, 1.0f);
  if (weight_dtype != REFORMER_INT8) {
    call.weight = draw_values(random, weight_dtype, outputs * size, 0.1f);
    return call;
  }
  for (int64_t i = 0; i < outputs * size; ++i) {
    call.weight.push_back(static_cast<float>(draw_int(random, -127, 127)));
  }
  call.scales = draw_values(random, REFORMER_FLOAT32, outputs, 0.01f);
  return call;
}

LinearCall draw_linear(Random& random, int32_t weight_dtype) {
  const bool takes_any = weight_dtype != REFORMER_FLOAT32;
  const auto dtype = takes_any ? static_cast<int32_t>(draw_int(random, 0, 2)) : REFORMER_FLOAT32;
  const int64_t rows = draw_from(random, {0, 1, 1, 2, 5, 11, 12, 13, 16, 17, 33, 96, 97, 200});
  const int64_t size = draw_from(random, {1, 2, 3, 4, 5, 31, 63, 64, 65, 127, 130, 256, 333, 1090});
  const int64_t outputs = draw_from(random, {0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 70, 100});
  LinearCall call = fill_linear(random, dtype, weight_dtype, rows, size, outputs);
  call.activation = static_cast<int32_t>(draw_int(random, 0, 2));
  call.has_bias = draw_int(random, 0, 3) != 0;
  call.packed_before = draw_int(random, 0, 1) != 0;
  call.offset = draw_int(random, 0, 2) == 0 ? draw_int(random, 1, 3) : 0;
  if (weight_dtype == REFORMER_INT8) {
    for (int64_t row = 0; row < rows; ++row) {
      shape_row(random, dtype, call.x.data() + row * size, size);
    }
  }
  return call;
}

LinearCall take_row(const LinearCall& call, int64_t row) {
  LinearCall one = call;
  one.rows = 1;
  one.x.assign(call.x.begin() + row * call.size, call.x.begin() + (row + 1) * call.size);
  return one;
}

std::vector<float> run_linear(const LinearCall& call, int32_t workers) {
  TensorMemory x(call.dtype, call.x, call.offset);
  TensorMemory weight(call.weight_dtype, call.weight, call.offset);
  TensorMemory scales(REFORMER_FLOAT32, call.scales, call.offset);
  TensorMemory bias(call.dtype, call.bias, call.offset);
  TensorMemory y(call.dtype, std::vector<float>(static_cast<size_t>(call.rows * call.outputs)),
                 call.offset);
  y.poison();
  char error[kErrorSize] = "";
  reformer_linear_params params{};
  params.struct_size = sizeof(params);
  params.abi_version = REFORMER_ABI_VERSION;
  params.activation = call.activation;
  params.x = x.view({call.rows, call.size});
  params.weight = weight.view({call.outputs, call.size});
  if (call.weight_dtype == REFORMER_INT8) params.scales = scales.view({call.outputs});
  if (call.has_bias) params.bias = bias.view({call.outputs});
  params.y = y.view({call.rows, call.outputs});
  params.execution.num_workers = workers;
  params.execution.parallel_for = workers > 1 ? run_on_threads : nullptr;
  params.execution.error = error;
  params.execution.error_size = kErrorSize;
  uint64_t size = 0;
  std::vector<char> packed;
  if (call.packed_before) {
    CHECK(reformer_cpu_linear_packed_size(&params, &size) == REFORMER_OK, "%s", error);
    packed.resize(size + 64);
    const auto address = reinterpret_cast<uintptr_t>(packed.data());
    params.packed = packed.data() + (64 - address % 64);
    params.packed_size = size;
    CHECK(reformer_cpu_linear_pack(&params) == REFORMER_OK, "%s", error);
    params.weight.data = params.scales.data = params.bias.data = nullptr;
  }
  CHECK(reformer_cpu_linear_workspace(&params, &size) == REFORMER_OK, "%s", error);
  // Its own block, so that a sanitizer sees what lies beyond.
  const std::unique_ptr<char[]> workspace(new char[size]);
  params.execution.workspace = workspace.get();
  params.execution.workspace_size = size;
  CHECK(reformer_cpu_linear(&params) == REFORMER_OK, "%s", error);
  return y.read();
}

double measure_linear(const LinearCall& call, const std::vector<float>& got) {
  double worst = 0;
  const size_t outputs = static_cast<size_t>(call.outputs);
  for (int64_t m = 0; m < call.rows; ++m) {
    float unit = 0;
    const std::vector<double> row = convert_row(call, call.x.data() + m * call.size, &unit);
    for (size_t n = 0; n < outputs; ++n) {
      const float y = got[static_cast<size_t>(m) * outputs + n];
      worst = std::max(worst, measure_element(call, row, unit, n, y));
    }
  }
  return worst;
}

}  // namespace reformer::test
