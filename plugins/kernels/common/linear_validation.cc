// Linear's parameters.
#include "kernels/common/attention_checks.h"
#include "kernels/common/tensor_checks.h"
#include "kernels/common/validation.h"

namespace reformer {
namespace {

// With more products of int8 numbers a sum could leave int32.
constexpr int64_t kMostInt8Products = kMaxInt32 / (128 * 127);

bool is_absent(const reformer_tensor& tensor) { return tensor.rank == 0; }

void check_weight(Checker& check, const reformer_linear_params& params, LinearSizes* sizes) {
  check.floating("x", params.x);
  check.shape("x", params.x, {kAny, kAny});
  const int32_t dtype = params.weight.dtype;
  if (dtype != REFORMER_INT8 && dtype != REFORMER_BFLOAT16 && dtype != REFORMER_FLOAT32) {
    check.fail(REFORMER_ERROR_DTYPE, "weight has neither dtype int8 nor bfloat16 nor float32");
  }
  if (check.ok() && dtype == REFORMER_FLOAT32) check.dtype("x", params.x, REFORMER_FLOAT32);
  check.shape("weight", params.weight, {kAny, kAny});
  if (!check.ok()) return;
  sizes->rows = params.x.dims[0];
  sizes->outputs = params.weight.dims[0];
  sizes->size = params.weight.dims[1];
  check.attribute("the weight's last dimension", sizes->size, 1, kMaxInt32);
  check.limit("the weight's first dimension", sizes->outputs, kMaxInt32);
  if (params.weight.dtype == REFORMER_INT8) {
    check.limit("the number of products in a sum", sizes->size, kMostInt8Products);
  }
}

void check_factors(Checker& check, const reformer_linear_params& params, const LinearSizes& sizes) {
  if (!check.ok()) return;
  if (params.weight.dtype == REFORMER_INT8) {
    check.dtype("scales", params.scales, REFORMER_FLOAT32);
    check.shape("scales", params.scales, {sizes.outputs});
  } else if (!is_absent(params.scales)) {
    check.fail(REFORMER_ERROR_SHAPE, "scales has rank %d, expected none with a weight of floats",
               params.scales.rank);
  }
  if (is_absent(params.bias)) return;
  if (check.ok()) check.dtype("bias", params.bias, params.x.dtype);
  check.shape("bias", params.bias, {sizes.outputs});
}

void check_operand_data(Checker& check, const reformer_linear_params& params) {
  check.data("weight", params.weight);
  if (!is_absent(params.scales)) check.data("scales", params.scales);
  if (!is_absent(params.bias)) check.data("bias", params.bias);
}

void check_operands(Checker& check, const reformer_linear_params& params, LinearSizes* sizes) {
  check.execution();
  check_weight(check, params, sizes);
  check_factors(check, params, *sizes);
}

}  // namespace

reformer_status check_linear_operands(const reformer_linear_params* params, Extent extent,
                                      LinearSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  Checker check("Linear", params->execution);
  check_operands(check, *params, sizes);
  if (extent == Extent::kCall && check.ok()) check_operand_data(check, *params);
  return check.status();
}

reformer_status check_linear(const reformer_linear_params* params, Extent extent,
                             LinearSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  Checker check("Linear", params->execution);
  check_operands(check, *params, sizes);
  check.attribute("activation", params->activation, REFORMER_NO_ACTIVATION, REFORMER_GELU);
  check.shape("x", params->x, {kAny, sizes->size});
  check.limit("rows", sizes->rows, kMaxInt32);
  if (check.ok()) check.dtype("y", params->y, params->x.dtype);
  check.shape("y", params->y, {sizes->rows, sizes->outputs});
  sizes->empty = sizes->rows == 0 || sizes->outputs == 0;
  if (extent == Extent::kShapes || !check.ok()) return check.status();
  if (params->packed == nullptr) check_operand_data(check, *params);
  check.data("x", params->x);
  check.data("y", params->y);
  check.disjoint("y", params->y, {&params->x});
  if (params->packed == nullptr) {
    check.disjoint("y", params->y, {&params->weight, &params->scales, &params->bias});
  }
  return check.status();
}

}  // namespace reformer
