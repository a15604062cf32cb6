// What Linear refuses, with which status and words, and that nothing is written then.
#include <limits>
#include <vector>

#include "check.h"
#include "kernels/cpu/linear/products.h"
#include "reformer_kernels.h"
#include "tile_emulation.h"
#include "wrong_calls.h"

namespace reformer::test {
namespace {

// A correct call, M 2, K 8, N 3.
struct Call {
  std::vector<float> x = std::vector<float>(16, 0.5f);
  std::vector<int8_t> weight = std::vector<int8_t>(24, 3);
  std::vector<float> row = std::vector<float>(3, 1.0f);
  std::vector<float> y = std::vector<float>(6, kUntouched);
  alignas(64) char packed[4096] = {};
  std::vector<char> workspace = std::vector<char>(1 << 17);
  char error[256] = "";
  reformer_linear_params params{};

  Call() {
    set_products(&kEmulatedInt8Tiles, &kEmulatedBFloat16Tiles);
    params.struct_size = sizeof(params);
    params.abi_version = REFORMER_ABI_VERSION;
    params.activation = REFORMER_RELU;
    params.x = {x.data(), REFORMER_FLOAT32, 2, {2, 8}};
    params.weight = {weight.data(), REFORMER_INT8, 2, {3, 8}};
    params.scales = params.bias = {row.data(), REFORMER_FLOAT32, 1, {3}};
    params.y = {y.data(), REFORMER_FLOAT32, 2, {2, 3}};
    params.execution.num_workers = 1;
    params.execution.workspace = workspace.data();
    params.execution.workspace_size = workspace.size();
    params.execution.error = error;
    params.execution.error_size = sizeof(error);
  }
  Call(const Call&) = delete;

  std::vector<const std::vector<float>*> outputs() const { return {&y}; }

  void pack() {
    params.packed = packed;
    params.packed_size = sizeof(packed);
    CHECK(reformer_cpu_linear_pack(&params) == REFORMER_OK, "%s", error);
  }
};

const std::vector<WrongCall<Call>>& wrong_cases() {
  static const std::vector<WrongCall<Call>> cases = {
      {REFORMER_ERROR_VERSION, "", [](Call& c) { c.params.abi_version = 5; }},
      {REFORMER_ERROR_ATTRIBUTE, "num_workers is 0",
       [](Call& c) { c.params.execution.num_workers = 0; }},
      {REFORMER_ERROR_ATTRIBUTE, "activation is 3, expected 0 to 2",
       [](Call& c) { c.params.activation = 3; }},
      {REFORMER_ERROR_DTYPE, "x has dtype int8", [](Call& c) { c.params.x.dtype = REFORMER_INT8; }},
      {REFORMER_ERROR_DTYPE, "neither dtype int8 nor bfloat16",
       [](Call& c) { c.params.weight.dtype = REFORMER_FLOAT16; }},
      {REFORMER_ERROR_DTYPE, "x has dtype float16, expected float32",
       [](Call& c) {
         c.params.weight.dtype = REFORMER_FLOAT32;
         c.params.x.dtype = REFORMER_FLOAT16;
       }},
      {REFORMER_ERROR_DTYPE, "scales has dtype float16",
       [](Call& c) { c.params.scales.dtype = REFORMER_FLOAT16; }},
      {REFORMER_ERROR_DTYPE, "bias has dtype bfloat16, expected float32",
       [](Call& c) { c.params.bias.dtype = REFORMER_BFLOAT16; }},
      {REFORMER_ERROR_DTYPE, "y has dtype bfloat16, expected float32",
       [](Call& c) { c.params.y.dtype = REFORMER_BFLOAT16; }},
      {REFORMER_ERROR_SHAPE, "x has rank 3, expected 2", [](Call& c) { c.params.x.rank = 3; }},
      {REFORMER_ERROR_SHAPE, "x has shape [2, 7], expected [*, 8]",
       [](Call& c) { c.params.x.dims[1] = 7; }},
      {REFORMER_ERROR_SHAPE, "weight has rank 1", [](Call& c) { c.params.weight.rank = 1; }},
      {REFORMER_ERROR_SHAPE, "scales has rank 0, expected 1",
       [](Call& c) { c.params.scales = {}; }},
      {REFORMER_ERROR_SHAPE, "scales has rank 1, expected none with a weight of floats",
       [](Call& c) { c.params.weight.dtype = REFORMER_BFLOAT16; }},
      {REFORMER_ERROR_SHAPE, "bias has shape [4], expected [3]",
       [](Call& c) { c.params.bias.dims[0] = 4; }},
      {REFORMER_ERROR_SHAPE, "y has shape [2, 4], expected [2, 3]",
       [](Call& c) { c.params.y.dims[1] = 4; }},
      {REFORMER_ERROR_ATTRIBUTE, "last dimension is 0",
       [](Call& c) { c.params.weight.dims[1] = 0; }},
      {REFORMER_ERROR_ATTRIBUTE, "weight holds -128", [](Call& c) { c.weight[23] = -128; }},
      {REFORMER_ERROR_TOO_LARGE, "the number of products in a sum",
       [](Call& c) { c.params.weight.dims[1] = 132105; }},
      {REFORMER_ERROR_TOO_LARGE, "rows is 2147483648",
       [](Call& c) { c.params.x.dims[0] = int64_t{1} << 31; }},
      {REFORMER_ERROR_NULL_POINTER, "x has no data", [](Call& c) { c.params.x.data = nullptr; }},
      {REFORMER_ERROR_NULL_POINTER, "weight has no data",
       [](Call& c) { c.params.weight.data = nullptr; }},
      {REFORMER_ERROR_NULL_POINTER, "workspace is null",
       [](Call& c) { c.params.execution.workspace = nullptr; }},
      {REFORMER_ERROR_WORKSPACE, "expected at least",
       [](Call& c) { c.params.execution.workspace_size = 100; }},
      {REFORMER_ERROR_ALIGNMENT, "y is at an address",
       [](Call& c) { c.params.y.data = reinterpret_cast<char*>(c.y.data()) + 1; }},
      {REFORMER_ERROR_OVERLAP, "y shares memory", [](Call& c) { c.params.x.data = c.y.data(); }},
      {REFORMER_ERROR_OVERLAP, "y shares memory",
       [](Call& c) { c.params.bias.data = c.y.data() + 1; }},
      {REFORMER_ERROR_SHAPE, "packed was not packed for a weight [3, 8]",
       [](Call& c) {
         c.params.packed = c.packed;
         c.params.packed_size = sizeof(c.packed);
       }},
      {REFORMER_ERROR_SHAPE, "packed was not packed for a weight [2, 8]",
       [](Call& c) {
         c.pack();
         c.params.weight.dims[0] = c.params.scales.dims[0] = c.params.bias.dims[0] = 2;
         c.params.y.dims[1] = 2;
       }},
      {REFORMER_ERROR_SHAPE, "on this processor",
       [](Call& c) {
         c.pack();
         set_products(&kEmulatedBFloat16Tiles, nullptr);
       }},
      {REFORMER_ERROR_ALIGNMENT, "packed is at an address",
       [](Call& c) {
         c.pack();
         c.params.packed = c.packed + 4;
       }},
      {REFORMER_ERROR_WORKSPACE, "packed has 100 bytes",
       [](Call& c) {
         c.pack();
         c.params.packed_size = 100;
       }},
      {REFORMER_ERROR_PROCESSOR, "no instructions for int8 products",
       [](Call& /*call*/) { set_products(nullptr, nullptr); }},
  };
  return cases;
}

void check_edges() {
  Call call;
  CHECK(reformer_cpu_linear(&call.params) == REFORMER_OK, "%s", call.error);
  CHECK(reformer_cpu_linear(nullptr) == REFORMER_ERROR_NULL_POINTER, "null params");
  CHECK(reformer_cpu_linear_pack(&call.params) == REFORMER_ERROR_NULL_POINTER, "nowhere to pack");
  CHECK(reformer_cpu_linear_workspace(&call.params, nullptr) == REFORMER_ERROR_NULL_POINTER,
        "null size");
  CHECK(reformer_cpu_linear_packed_size(&call.params, nullptr) == REFORMER_ERROR_NULL_POINTER,
        "null size");
  call.params.x = {nullptr, REFORMER_FLOAT32, 2, {0, 8}};
  call.params.y = {nullptr, REFORMER_FLOAT32, 2, {0, 3}};
  CHECK(reformer_cpu_linear(&call.params) == REFORMER_OK, "no rows: %s", call.error);
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  check_wrong(wrong_cases(), reformer_cpu_linear);
  check_edges();
  return FINISH_TEST();
}
