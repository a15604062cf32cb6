#include "norm_call.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "half.h"
#include "operands.h"
#include "tensor_memory.h"

namespace reformer::test {
namespace {

constexpr size_t kErrorSize = 256;

// Half a step of T at `value`.
double half_step(int32_t dtype, double value) {
  return dtype == REFORMER_FLOAT32 ? 0 : 0.5 * spacing(dtype, value) * 1.01;
}

// The same as `measure_norm` of one row, the n numbers `row`. A float32 mean of numbers up to x is
// off by at most n + 8 units of x; in standard deviations that is `shift`. What differs from such a
// mean has a mean square off by shift^2, and by as many units for its own n additions.
double measure_row(const Norm& call, const std::vector<float>& row, const float* normed) {
  const double unit = 0x1p-24;
  const double n = static_cast<double>(row.size());
  double mean = 0;
  double largest = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    mean += static_cast<double>(row[i]) / n;
    largest = std::max(largest, std::fabs(static_cast<double>(row[i])));
  }
  double square = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    square += std::pow(static_cast<double>(row[i]) - mean, 2) / n;
  }
  const double deviation = std::sqrt(square + static_cast<double>(call.epsilon));
  const double shift = (n + 8) * unit * largest / deviation;
  double worst = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double scale = static_cast<double>(call.scale[i]);
    const double bias = static_cast<double>(call.bias[i]);
    const double apart = (static_cast<double>(row[i]) - mean) / deviation;
    const double wanted = apart * scale + bias;
    const double allowed =
        std::fabs(scale) * (shift + (shift * shift + (n + 8) * unit) * std::fabs(apart)) +
        4 * unit * (std::fabs(wanted) + std::fabs(bias)) + half_step(call.dtype, wanted);
    const double error = std::fabs(static_cast<double>(normed[i]) - wanted);
    worst = std::max(worst, std::isnan(error) ? 1e9 : error / allowed);
  }
  return worst;
}

}  // namespace

Norm fill_norm(Random& random, int32_t dtype, int64_t rows, int64_t size, float center,
               bool is_final) {
  Norm call;
  call.dtype = dtype;
  call.is_final = is_final;
  call.length = rows;
  call.size = size;
  call.stream = draw_values(random, REFORMER_FLOAT32, rows * size, 2.0f);
  for (float& value : call.stream) value += center;
  if (is_final) call.other_stream = draw_values(random, REFORMER_FLOAT32, rows * size, 3.0f);
  call.update = draw_values(random, dtype, rows * size, 1.0f);
  call.scale = draw_values(random, REFORMER_FLOAT32, call.width(), 1.0f);
  call.bias = draw_values(random, REFORMER_FLOAT32, call.width(), 1.0f);
  return call;
}

Norm draw_norm(Random& random) {
  const auto dtype = static_cast<int32_t>(draw_int(random, 0, 2));
  const int64_t size =
      draw_int(random, 0, 1) == 0
          ? draw_int(random, 1, 70)
          : draw_from(random, {128, 255, 256, 257, 264, 510, 512, 768, 1000, 1024, 1028, 2048});
  const int64_t batch = draw_int(random, 1, 3);
  const int64_t length = draw_int(random, 1, size > 100 ? 5 : 40);
  const float center = static_cast<float>(draw_from(random, {0, 0, 20, -1000}));
  const bool is_final = draw_int(random, 0, 1) == 0;
  Norm call = fill_norm(random, dtype, batch * length, size, center, is_final);
  call.batch = batch;
  call.length = length;
  call.epsilon = draw_int(random, 0, 3) == 0 ? 0.5f : 1e-12f;
  call.offset = draw_int(random, 0, 3) == 0 ? draw_int(random, 1, 3) : 0;
  call.in_place = !is_final && draw_int(random, 0, 1) == 0;
  return call;
}

Normed run_norm(const Norm& call, int32_t workers, const NormFunctions& functions) {
  TensorMemory other_stream(REFORMER_FLOAT32, call.other_stream, call.offset);
  TensorMemory stream(REFORMER_FLOAT32, call.stream, call.offset);
  TensorMemory update(call.dtype, call.update, call.offset);
  TensorMemory scale(REFORMER_FLOAT32, call.scale, call.offset);
  TensorMemory bias(REFORMER_FLOAT32, call.bias, call.offset);
  TensorMemory stream_out(REFORMER_FLOAT32, call.stream, call.offset);
  const size_t count = static_cast<size_t>(call.batch * call.length * call.width());
  TensorMemory normed(call.dtype, std::vector<float>(count), call.offset);
  stream_out.poison();
  normed.poison();
  char error[kErrorSize] = "";
  reformer_residual_norm_params params{};
  params.struct_size = sizeof(params);
  params.abi_version = REFORMER_ABI_VERSION;
  params.epsilon = call.epsilon;
  if (call.is_final) params.other_stream = other_stream.view({call.batch, call.length, call.size});
  params.stream = stream.view({call.batch, call.length, call.size});
  params.update = update.view({call.batch, call.length, call.size});
  params.scale = scale.view({call.width()});
  params.bias = bias.view({call.width()});
  if (!call.is_final) {
    params.stream_out =
        call.in_place ? params.stream : stream_out.view({call.batch, call.length, call.size});
  }
  params.normed =
      call.in_place ? params.update : normed.view({call.batch, call.length, call.width()});
  params.execution.num_workers = workers;
  params.execution.parallel_for = workers > 1 ? run_on_threads : nullptr;
  params.execution.error = error;
  params.execution.error_size = kErrorSize;
  uint64_t size = 1;
  CHECK(functions.workspace(&params, &size) == REFORMER_OK && size == 0, "%s", error);
  CHECK(functions.run(&params) == REFORMER_OK, "%s", error);
  if (call.in_place) return {stream.read(), update.read()};
  return {call.is_final ? std::vector<float>() : stream_out.read(), normed.read()};
}

double measure_norm(const Norm& call, const Normed& got) {
  double worst = 0;
  std::vector<float> row;
  for (size_t first = 0; first < call.stream.size(); first += static_cast<size_t>(call.size)) {
    row.clear();
    for (size_t i = first; call.is_final && i < first + static_cast<size_t>(call.size); ++i) {
      row.push_back(call.other_stream[i]);
    }
    for (size_t i = first; i < first + static_cast<size_t>(call.size); ++i) {
      row.push_back(call.stream[i] + call.update[i]);
      if (!call.is_final && got.stream_out[i] != row.back()) {
        return std::numeric_limits<double>::infinity();
      }
    }
    const size_t target = first / static_cast<size_t>(call.size) * row.size();
    worst = std::max(worst, measure_row(call, row, got.normed.data() + target));
  }
  return worst;
}

}  // namespace reformer::test
