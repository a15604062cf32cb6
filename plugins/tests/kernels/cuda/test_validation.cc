// What only the CUDA operators refuse, and how they report it. The checks that all backends share
// are in test_validation.cc.
#include <cmath>
#include <functional>
#include <iterator>
#include <type_traits>
#include <vector>

#include "check.h"
#include "control.h"
#include "kernels/cuda/sort/sort.h"
#include "reformer_kernels.h"
#include "wrong_calls.h"

namespace reformer::test {
namespace {

// A correct call of every operator, B 1, L 8, H 2, D 4, R 2.
struct Calls {
  std::vector<float> query = std::vector<float>(64, 0.5f);
  std::vector<float> key = std::vector<float>(64, 0.25f);
  std::vector<float> output = std::vector<float>(64, kUntouched);
  std::vector<float> normed = output;
  std::vector<float> wide = std::vector<float>(128);
  std::vector<float> rotations = std::vector<float>(32, 1.0f);
  std::vector<int32_t> buckets = std::vector<int32_t>(32, 1);
  std::vector<int32_t> mask = std::vector<int32_t>(8, 1);
  std::vector<char> workspace = std::vector<char>(1 << 20);
  char error[256] = "";
  int stream = 0;
  reformer_lsh_buckets_params hash{};
  reformer_lsh_attention_params lsh{};
  reformer_local_attention_params local{};
  reformer_residual_norm_params norm{};
  reformer_residual_norm_params final_norm{};

  Calls() {
    fill(&hash);
    hash.num_factors = 1;
    hash.num_buckets[0] = 4;
    hash.query_key = view(query);
    hash.rotations = {rotations.data(), REFORMER_FLOAT32, 4, {2, 4, 2, 2}};
    hash.buckets = {buckets.data(), REFORMER_INT32, 4, {1, 2, 2, 8}};
    fill(&lsh);
    lsh.key_norm_epsilon = 1e-6f;
    lsh.self_logit = -1e5f;
    lsh.dense_threshold = 4;
    lsh.chunking = {4, 1, 0, 4, 4, 1};
    lsh.query_key = view(query);
    lsh.value = view(key);
    lsh.buckets = hash.buckets;
    lsh.output = view(output);
    fill(&local);
    local.self_logit = -5e4f;
    local.chunking = lsh.chunking;
    local.query = view(query);
    local.key = local.value = view(key);
    local.output = view(output);
    fill(&norm);
    norm.epsilon = 1e-6f;
    norm.stream = norm.update = view(query);
    norm.scale = norm.bias = {key.data(), REFORMER_FLOAT32, 1, {8}};
    norm.stream_out = view(output);
    norm.normed = view(normed);
    final_norm = norm;
    final_norm.other_stream = view(key);
    final_norm.scale.dims[0] = final_norm.bias.dims[0] = 16;
    final_norm.stream_out = {};
    final_norm.normed = {wide.data(), REFORMER_FLOAT32, 3, {1, 8, 16}};
  }
  Calls(const Calls&) = delete;

  template <typename Params>
  void fill(Params* params) {
    params->struct_size = sizeof(Params);
    params->abi_version = REFORMER_ABI_VERSION;
    if constexpr (!std::is_same_v<Params, reformer_residual_norm_params>) {
      params->num_heads = 2;
      params->attention_mask = {mask.data(), REFORMER_INT32, 2, {1, 8}};
    }
    params->execution.num_workers = 1;
    params->execution.workspace = workspace.data();
    params->execution.workspace_size = workspace.size();
    params->execution.stream = &stream;
    params->execution.error = error;
    params->execution.error_size = sizeof(error);
  }
  static reformer_tensor view(std::vector<float>& values) {
    return {values.data(), REFORMER_FLOAT32, 3, {1, 8, 8}};
  }
};

void check_correct() {
  Calls calls;
  expect(reformer_cuda_lsh_buckets(&calls.hash), REFORMER_OK, calls.error, "");
  CHECK(cuda::emulation::last_stream() == &calls.stream, "another stream");
  expect(reformer_cuda_lsh_attention(&calls.lsh), REFORMER_OK, calls.error, "");
  expect(reformer_cuda_local_attention(&calls.local), REFORMER_OK, calls.error, "");
  uint64_t size = 1;
  expect(reformer_cuda_local_attention_workspace(&calls.local, &size), REFORMER_OK, calls.error,
         "");
  expect(reformer_cuda_residual_norm(&calls.norm), REFORMER_OK, calls.error, "");
  expect(reformer_cuda_residual_norm(&calls.final_norm), REFORMER_OK, calls.error, "");
  CHECK(size == 0, "local attention asks for %llu bytes", static_cast<unsigned long long>(size));
}

// Heads of 257 elements: shapes only, nothing is read.
void check_head_size() {
  Calls calls;
  const auto widen = [](reformer_tensor& tensor) { tensor.dims[2] = 2 * 257; };
  widen(calls.hash.query_key);
  calls.hash.rotations.dims[1] = 257;
  for (reformer_tensor* tensor :
       {&calls.lsh.query_key, &calls.lsh.value, &calls.lsh.output, &calls.local.query,
        &calls.local.key, &calls.local.value, &calls.local.output}) {
    widen(*tensor);
  }
  const char* message = "head size is 257, expected at most 256 on CUDA";
  uint64_t size = 0;
  expect(reformer_cuda_lsh_buckets_workspace(&calls.hash, &size), REFORMER_ERROR_SHAPE, calls.error,
         message);
  expect(reformer_cuda_lsh_attention_workspace(&calls.lsh, &size), REFORMER_ERROR_SHAPE,
         calls.error, message);
  expect(reformer_cuda_local_attention_workspace(&calls.local, &size), REFORMER_ERROR_SHAPE,
         calls.error, message);
}

void check_workspace() {
  Calls calls;
  uint64_t size = 0;
  CHECK(reformer_cuda_lsh_buckets_workspace(&calls.hash, &size) == REFORMER_OK, "%s", calls.error);
  CHECK(size == 0, "hashing wants %llu bytes", static_cast<unsigned long long>(size));
  calls.hash.execution.workspace = nullptr;
  calls.hash.execution.workspace_size = 0;
  expect(reformer_cuda_lsh_buckets(&calls.hash), REFORMER_OK, calls.error, "");
  CHECK(reformer_cuda_lsh_attention_workspace(&calls.lsh, &size) == REFORMER_OK, "%s", calls.error);
  calls.lsh.execution.workspace_size = size - 1;
  expect(reformer_cuda_lsh_attention(&calls.lsh), REFORMER_ERROR_WORKSPACE, calls.error,
         "expected at least");
  CHECK(calls.output[0] == kUntouched, "the output was touched");
}

// Shapes that pass every single check and need more memory than can be counted.
void check_huge() {
  Calls calls;
  const int64_t batch = int64_t{1} << 53;
  for (reformer_tensor* tensor : {&calls.lsh.query_key, &calls.lsh.value, &calls.lsh.output,
                                  &calls.lsh.buckets, &calls.lsh.attention_mask}) {
    tensor->dims[0] = batch;
  }
  uint64_t size = 0;
  expect(reformer_cuda_lsh_attention_workspace(&calls.lsh, &size), REFORMER_ERROR_TOO_LARGE,
         calls.error, "the workspace has more bytes");
  calls.hash.rotations.dims[2] = calls.hash.buckets.dims[2] = int64_t{1} << 28;
  expect(reformer_cuda_lsh_buckets_workspace(&calls.hash, &size), REFORMER_ERROR_TOO_LARGE,
         calls.error, "rotations have 536870912 columns a head, expected at most 536870911");
  calls.hash.rotations.dims[2] = calls.hash.buckets.dims[2] -= 1;
  expect(reformer_cuda_lsh_buckets_workspace(&calls.hash, &size), REFORMER_OK, calls.error, "");
}

void check_empty() {
  Calls calls;
  calls.hash.query_key = {nullptr, REFORMER_FLOAT32, 3, {1, 0, 8}};
  calls.hash.attention_mask = {nullptr, REFORMER_INT32, 2, {1, 0}};
  calls.hash.buckets = {nullptr, REFORMER_INT32, 4, {1, 2, 2, 0}};
  calls.hash.execution.workspace = nullptr;
  expect(reformer_cuda_lsh_buckets(&calls.hash), REFORMER_OK, calls.error, "");
}

// A call longer than a block sorts: [1, L, 1] in a workspace of exactly the bytes it asks for.
struct LongCall {
  std::vector<float> rows = std::vector<float>(cuda::kBlockSortLength + 5, 0.5f);
  std::vector<float> output = std::vector<float>(rows.size());
  std::vector<int32_t> buckets = std::vector<int32_t>(rows.size(), 3);
  std::vector<int32_t> mask = std::vector<int32_t>(rows.size(), 1);
  std::vector<char> workspace;
  Calls calls;

  LongCall() {
    const int64_t length = static_cast<int64_t>(rows.size());
    reformer_lsh_attention_params& lsh = calls.lsh;
    lsh.num_heads = 1;
    lsh.chunking.chunk_length = lsh.chunking.padding_multiple = 64;
    lsh.query_key = lsh.value = {rows.data(), REFORMER_FLOAT32, 3, {1, length, 1}};
    lsh.output = {output.data(), REFORMER_FLOAT32, 3, {1, length, 1}};
    lsh.buckets = {buckets.data(), REFORMER_INT32, 4, {1, 1, 1, length}};
    lsh.attention_mask = {mask.data(), REFORMER_INT32, 2, {1, length}};
    uint64_t size = 0;
    CHECK(reformer_cuda_lsh_attention_workspace(&lsh, &size) == REFORMER_OK, "%s", calls.error);
    workspace.resize(size);
    lsh.execution.workspace = workspace.data();
    lsh.execution.workspace_size = size;
  }
};

void check_long() {
  LongCall call;
  expect(reformer_cuda_lsh_attention(&call.calls.lsh), REFORMER_OK, call.calls.error, "");
  // Every value is the same, and so is their average.
  for (const float value : call.output) CHECK(std::fabs(value - 0.5f) < 1e-6f, "%g", value);
}

// Every launch of a call is checked: whichever is refused, the call says so.
void check_refused_launches() {
  const std::function<reformer_status(Calls&)> operators[] = {
      [](Calls& calls) { return reformer_cuda_lsh_buckets(&calls.hash); },
      [](Calls& calls) { return reformer_cuda_lsh_attention(&calls.lsh); },
      [](Calls& calls) { return reformer_cuda_local_attention(&calls.local); },
      [](Calls& calls) { return reformer_cuda_residual_norm(&calls.norm); },
      [](Calls& calls) { return reformer_cuda_residual_norm(&calls.final_norm); }};
  const int launches[] = {1, 3, 1, 1, 1};
  for (size_t op = 0; op < std::size(launches); ++op) {
    for (int launch = 0; launch < launches[op]; ++launch) {
      Calls calls;
      cuda::emulation::refuse_launch_after(launch);
      expect(operators[op](calls), REFORMER_ERROR_LAUNCH, calls.error, "refused a kernel");
    }
    Calls calls;
    cuda::emulation::refuse_launch_after(launches[op]);
    expect(operators[op](calls), REFORMER_OK, calls.error, "");
    cuda::emulation::refuse_launch_after(-1);
  }
  // The preparation and the seven of the long sort.
  LongCall call;
  for (int launch = 0; launch < 8; ++launch) {
    cuda::emulation::refuse_launch_after(launch);
    expect(reformer_cuda_lsh_attention(&call.calls.lsh), REFORMER_ERROR_LAUNCH, call.calls.error,
           "refused a kernel");
  }
  cuda::emulation::refuse_launch_after(-1);
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  check_correct();
  check_head_size();
  check_workspace();
  check_huge();
  check_empty();
  check_long();
  check_refused_launches();
  return FINISH_TEST();
}
