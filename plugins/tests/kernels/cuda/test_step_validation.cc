// What only the step operators refuse on CUDA, and how they report it.
#include <cmath>
#include <vector>

#include "check.h"
#include "control.h"
#include "reformer_kernels.h"
#include "wrong_calls.h"

namespace reformer::test {
namespace {

// A correct call of each: a prompt of 8 tokens and caches with room for as many, B 1, H 2, D 4,
// R 2.
struct StepCalls {
  std::vector<float> query = std::vector<float>(64, 0.5f);
  std::vector<float> output = std::vector<float>(64, kUntouched);
  std::vector<float> past = std::vector<float>(64, 0.25f);
  std::vector<float> present[2] = {past, past};
  std::vector<int32_t> buckets = std::vector<int32_t>(32, 1);
  std::vector<int32_t> past_buckets = buckets;
  std::vector<int32_t> present_buckets = buckets;
  int32_t held = 0;
  int32_t fresh = 8;
  std::vector<char> workspace = std::vector<char>(1 << 20);
  char error[256] = "";
  int stream = 0;
  reformer_lsh_attention_step_params lsh_step{};
  reformer_local_attention_step_params local_step{};

  StepCalls() {
    fill(&lsh_step);
    lsh_step.key_norm_epsilon = 1e-6f;
    lsh_step.self_logit = -1e5f;
    lsh_step.dense_threshold = 4;
    lsh_step.query_key = lsh_step.value = view(query);
    lsh_step.new_buckets = view_buckets(buckets);
    lsh_step.past_query_key = lsh_step.past_value = view(past);
    lsh_step.past_buckets = view_buckets(past_buckets);
    lsh_step.present_query_key = view(present[0]);
    lsh_step.present_value = view(present[1]);
    lsh_step.present_buckets = view_buckets(present_buckets);
    fill(&local_step);
    local_step.self_logit = HUGE_VALF;
    local_step.wraps = 1;
    local_step.query = local_step.key = local_step.value = view(query);
    local_step.past_key = local_step.past_value = view(past);
    local_step.present_key = view(present[0]);
    local_step.present_value = view(present[1]);
  }
  StepCalls(const StepCalls&) = delete;

  template <typename Params>
  void fill(Params* params) {
    params->struct_size = sizeof(Params);
    params->abi_version = REFORMER_ABI_VERSION;
    params->num_heads = 2;
    params->chunking = {4, 1, 0, 4, 4, 1};
    params->lengths = {&held, REFORMER_INT32, 1, {1}};
    params->new_lengths = {&fresh, REFORMER_INT32, 1, {1}};
    params->output = view(output);
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
  static reformer_tensor view_buckets(std::vector<int32_t>& values) {
    return {values.data(), REFORMER_INT32, 4, {1, 2, 2, 8}};
  }

  // The last of the 8 tokens alone.
  void make_step() {
    held = 7;
    fresh = 1;
    for (reformer_tensor* tensor :
         {&lsh_step.query_key, &lsh_step.value, &lsh_step.output, &local_step.query,
          &local_step.key, &local_step.value, &local_step.output}) {
      tensor->dims[1] = 1;
    }
    lsh_step.new_buckets.dims[3] = 1;
  }
};

// Copies and fills are checked as launches are.
void check_refused_launches() {
  const auto run = [](StepCalls& calls, bool is_lsh) {
    return is_lsh ? reformer_cuda_lsh_attention_step(&calls.lsh_step)
                  : reformer_cuda_local_attention_step(&calls.local_step);
  };
  struct Case {
    bool is_lsh;
    bool prompt;
    int launches;
  };
  // A prompt: two reads, the output's and the mask's fill, LSH's copy of the buckets, the whole
  // operator, and of each cache two copies. A step: each cache's past, then the kernels.
  for (const Case& one : {Case{true, true, 2 + 2 + 1 + 3 + 6}, Case{false, true, 2 + 2 + 1 + 4},
                          Case{true, false, 3 + 2}, Case{false, false, 2 + 1}}) {
    for (int launch = 0; launch < one.launches; ++launch) {
      StepCalls calls;
      if (!one.prompt) calls.make_step();
      cuda::emulation::refuse_launch_after(launch);
      const bool reads = one.prompt && launch < 2;
      expect(run(calls, one.is_lsh), REFORMER_ERROR_LAUNCH, calls.error,
             reads ? "could not be read back" : "refused a kernel");
    }
    StepCalls calls;
    if (!one.prompt) calls.make_step();
    cuda::emulation::refuse_launch_after(one.launches);
    expect(run(calls, one.is_lsh), REFORMER_OK, calls.error, "");
    CHECK(cuda::emulation::last_stream() == &calls.stream, "another stream");
    cuda::emulation::refuse_launch_after(-1);
  }
}

void check_step_limits() {
  StepCalls calls;
  uint64_t size = 0;
  CHECK(reformer_cuda_lsh_attention_step_workspace(&calls.lsh_step, &size) == REFORMER_OK, "%s",
        calls.error);
  calls.lsh_step.execution.workspace_size = size - 1;
  expect(reformer_cuda_lsh_attention_step(&calls.lsh_step), REFORMER_ERROR_WORKSPACE, calls.error,
         "expected at least");
  CHECK(reformer_cuda_local_attention_step_workspace(&calls.local_step, &size) == REFORMER_OK, "%s",
        calls.error);
  calls.local_step.execution.workspace_size = size - 1;
  expect(reformer_cuda_local_attention_step(&calls.local_step), REFORMER_ERROR_WORKSPACE,
         calls.error, "expected at least");
  CHECK(calls.output[0] == kUntouched && calls.present[0] == calls.past, "something was touched");
  calls.make_step();
  expect(reformer_cuda_local_attention_step_workspace(&calls.local_step, &size), REFORMER_OK,
         calls.error, "");
  CHECK(size == 0, "a local step asks for %llu bytes", static_cast<unsigned long long>(size));
  for (reformer_tensor* tensor :
       {&calls.lsh_step.query_key, &calls.lsh_step.value, &calls.lsh_step.output,
        &calls.lsh_step.past_query_key, &calls.lsh_step.past_value,
        &calls.lsh_step.present_query_key, &calls.lsh_step.present_value}) {
    tensor->dims[2] = 2 * 257;
  }
  expect(reformer_cuda_lsh_attention_step_workspace(&calls.lsh_step, &size), REFORMER_ERROR_SHAPE,
         calls.error, "head size is 257");
}

// No new tokens: the past is copied, and nothing else happens.
void check_no_tokens() {
  StepCalls calls;
  calls.make_step();
  calls.past.assign(64, 0.75f);
  for (reformer_tensor* tensor : {&calls.local_step.query, &calls.local_step.key,
                                  &calls.local_step.value, &calls.local_step.output}) {
    tensor->dims[1] = 0;
  }
  const int launches = cuda::emulation::count_launches();
  expect(reformer_cuda_local_attention_step(&calls.local_step), REFORMER_OK, calls.error, "");
  CHECK(cuda::emulation::count_launches() == launches, "a kernel was launched");
  CHECK(calls.present[0] == calls.past && calls.present[1] == calls.past, "the past is not there");
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  check_refused_launches();
  check_step_limits();
  check_no_tokens();
  return FINISH_TEST();
}
