// Every kind of wrong parameter gives its status and its words, and touches nothing.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "reformer_kernels.h"
#include "wrong_calls.h"

namespace reformer::test {
namespace {

// A correct call of LSHAttention, B 1, L 16, H 2, D 4, R 3; cases break one thing each.
struct Call {
  std::vector<float> query_key = std::vector<float>(128, 0.5f);
  std::vector<float> value = std::vector<float>(128, 0.25f);
  std::vector<float> output = std::vector<float>(128, kUntouched);
  std::vector<int32_t> buckets = std::vector<int32_t>(96, 1);
  std::vector<int32_t> mask = std::vector<int32_t>(16, 1);
  std::vector<char> workspace;
  char error[256] = "";
  reformer_lsh_attention_params params{};

  Call() {
    params.struct_size = sizeof(params);
    params.abi_version = REFORMER_ABI_VERSION;
    params.num_heads = 2;
    params.key_norm_epsilon = 1e-6f;
    params.self_logit = -1e5f;
    params.dense_threshold = 4;
    params.chunking = {4, 1, 0, 4, 4, 1};
    params.query_key = {query_key.data(), REFORMER_FLOAT32, 3, {1, 16, 8}};
    params.value = {value.data(), REFORMER_FLOAT32, 3, {1, 16, 8}};
    params.buckets = {buckets.data(), REFORMER_INT32, 4, {1, 2, 3, 16}};
    params.attention_mask = {mask.data(), REFORMER_INT32, 2, {1, 16}};
    params.output = {output.data(), REFORMER_FLOAT32, 3, {1, 16, 8}};
    params.execution.num_workers = 1;
    uint64_t size = 0;
    CHECK(reformer_cpu_lsh_attention_workspace(&params, &size) == REFORMER_OK, "query");
    workspace.resize(size);
    params.execution.workspace = workspace.data();
    params.execution.workspace_size = size;
    params.execution.error = error;
    params.execution.error_size = sizeof(error);
  }
  Call(const Call&) = delete;

  std::vector<const std::vector<float>*> outputs() const { return {&output}; }
};

const std::vector<WrongCall<Call>>& wrong_cases() {
  constexpr int64_t kHuge = INT64_MAX / 2;
  static const std::vector<WrongCall<Call>> cases = {
      {REFORMER_ERROR_VERSION, "", [](Call& c) { c.params.struct_size = 8; }},
      {REFORMER_ERROR_VERSION, "", [](Call& c) { c.params.abi_version = 99; }},
      {REFORMER_ERROR_ATTRIBUTE, "num_heads is 0", [](Call& c) { c.params.num_heads = 0; }},
      {REFORMER_ERROR_SHAPE, "expected a multiple of num_heads 3",
       [](Call& c) { c.params.num_heads = 3; }},
      {REFORMER_ERROR_ATTRIBUTE, "num_workers is 0",
       [](Call& c) { c.params.execution.num_workers = 0; }},
      {REFORMER_ERROR_ATTRIBUTE, "key_norm_epsilon",
       [](Call& c) { c.params.key_norm_epsilon = 0; }},
      {REFORMER_ERROR_ATTRIBUTE, "self_logit is inf, expected -1e+08 to 1e+08",
       [](Call& c) { c.params.self_logit = std::numeric_limits<float>::infinity(); }},
      {REFORMER_ERROR_ATTRIBUTE, "self_logit is -2e+08",
       [](Call& c) { c.params.self_logit = -2e8f; }},
      {REFORMER_ERROR_ATTRIBUTE, "self_logit is",
       [](Call& c) { c.params.self_logit = std::numeric_limits<float>::quiet_NaN(); }},
      {REFORMER_ERROR_ATTRIBUTE, "dense_threshold is -1",
       [](Call& c) { c.params.dense_threshold = -1; }},
      {REFORMER_ERROR_ATTRIBUTE, "is_causal is 2",
       [](Call& c) { c.params.chunking.is_causal = 2; }},
      {REFORMER_ERROR_ATTRIBUTE, "chunk_length is 0",
       [](Call& c) { c.params.chunking.chunk_length = 0; }},
      {REFORMER_ERROR_ATTRIBUTE, "num_chunks_before is -1",
       [](Call& c) { c.params.chunking.num_chunks_before = -1; }},
      {REFORMER_ERROR_SHAPE, "not a multiple of chunk_length 5",
       [](Call& c) { c.params.chunking.chunk_length = 5; }},
      {REFORMER_ERROR_TOO_LARGE, "keys in one chunk's window",
       [](Call& c) { c.params.chunking.num_chunks_after = INT32_MAX; }},
      {REFORMER_ERROR_DTYPE, "query_key has dtype int32",
       [](Call& c) { c.params.query_key.dtype = REFORMER_INT32; }},
      {REFORMER_ERROR_DTYPE, "query_key has dtype unknown",
       [](Call& c) { c.params.query_key.dtype = 77; }},
      {REFORMER_ERROR_DTYPE, "value has dtype float16, expected float32 as query_key has",
       [](Call& c) { c.params.value.dtype = REFORMER_FLOAT16; }},
      {REFORMER_ERROR_SHAPE, "value has shape [1, 15, 8], expected [1, 16, 8]",
       [](Call& c) { c.params.value.dims[1] = 15; }},
      {REFORMER_ERROR_SHAPE, "query_key has rank 2, expected 3",
       [](Call& c) { c.params.query_key.rank = 2; }},
      {REFORMER_ERROR_SHAPE, "query_key has shape [-1, 16, 8]",
       [](Call& c) { c.params.query_key.dims[0] = -1; }},
      {REFORMER_ERROR_SHAPE, "buckets has shape [1, 3, 3, 16], expected [1, 2, *, 16]",
       [](Call& c) { c.params.buckets.dims[1] = 3; }},
      {REFORMER_ERROR_TOO_LARGE, "more bytes than",
       [](Call& c) { c.params.query_key.dims[0] = kHuge; }},
      {REFORMER_ERROR_ATTRIBUTE, "num_hashes", [](Call& c) { c.params.buckets.dims[2] = 0; }},
      {REFORMER_ERROR_NULL_POINTER, "value has no data",
       [](Call& c) { c.params.value.data = nullptr; }},
      {REFORMER_ERROR_ALIGNMENT, "query_key is at an address",
       [](Call& c) { c.params.query_key.data = reinterpret_cast<char*>(c.query_key.data()) + 1; }},
      {REFORMER_ERROR_OVERLAP, "output shares memory",
       [](Call& c) { c.params.value.data = c.output.data(); }},
      {REFORMER_ERROR_NULL_POINTER, "workspace is null",
       [](Call& c) { c.params.execution.workspace = nullptr; }},
      {REFORMER_ERROR_WORKSPACE, "expected at least",
       [](Call& c) { c.params.execution.workspace_size -= 1; }},
      {REFORMER_ERROR_BUCKETS, "negative", [](Call& c) { c.buckets[95] = -1; }},
  };
  return cases;
}

// A correct call of ResidualNorm, B 1, L 2, N 4.
struct NormCall {
  std::vector<float> stream = std::vector<float>(8, 0.5f);
  std::vector<float> update = std::vector<float>(8, 0.25f);
  std::vector<float> row = std::vector<float>(4, 1.0f);
  std::vector<float> stream_out = std::vector<float>(8, kUntouched);
  std::vector<float> normed = stream_out;
  char error[256] = "";
  reformer_residual_norm_params params{};

  NormCall() {
    params.struct_size = sizeof(params);
    params.abi_version = REFORMER_ABI_VERSION;
    params.epsilon = 1e-6f;
    params.stream = {stream.data(), REFORMER_FLOAT32, 3, {1, 2, 4}};
    params.update = {update.data(), REFORMER_FLOAT32, 3, {1, 2, 4}};
    params.scale = params.bias = {row.data(), REFORMER_FLOAT32, 1, {4}};
    params.stream_out = {stream_out.data(), REFORMER_FLOAT32, 3, {1, 2, 4}};
    params.normed = {normed.data(), REFORMER_FLOAT32, 3, {1, 2, 4}};
    params.execution.num_workers = 1;
    params.execution.error = error;
    params.execution.error_size = sizeof(error);
  }
  NormCall(const NormCall&) = delete;

  std::vector<const std::vector<float>*> outputs() const { return {&stream_out, &normed}; }

  // FinalNorm's, of the same stream twice.
  void make_final() {
    row.resize(8, 1.0f);
    normed.resize(16, kUntouched);
    params.other_stream = params.stream;
    params.scale = params.bias = {row.data(), REFORMER_FLOAT32, 1, {8}};
    params.stream_out = {};
    params.normed = {normed.data(), REFORMER_FLOAT32, 3, {1, 2, 8}};
  }
};

const std::vector<WrongCall<NormCall>>& wrong_norms() {
  static const std::vector<WrongCall<NormCall>> cases = {
      {REFORMER_ERROR_VERSION, "", [](NormCall& c) { c.params.struct_size = 8; }},
      {REFORMER_ERROR_ATTRIBUTE, "num_workers is 0",
       [](NormCall& c) { c.params.execution.num_workers = 0; }},
      {REFORMER_ERROR_ATTRIBUTE, "epsilon is -1", [](NormCall& c) { c.params.epsilon = -1; }},
      {REFORMER_ERROR_ATTRIBUTE, "expected a finite number >= 0",
       [](NormCall& c) { c.params.epsilon = std::numeric_limits<float>::quiet_NaN(); }},
      {REFORMER_ERROR_DTYPE, "stream has dtype float16, expected float32",
       [](NormCall& c) { c.params.stream.dtype = REFORMER_FLOAT16; }},
      {REFORMER_ERROR_DTYPE, "update has dtype int32",
       [](NormCall& c) { c.params.update.dtype = REFORMER_INT32; }},
      {REFORMER_ERROR_DTYPE, "normed has dtype bfloat16, expected float32 as update has",
       [](NormCall& c) { c.params.normed.dtype = REFORMER_BFLOAT16; }},
      {REFORMER_ERROR_DTYPE, "stream_out has dtype float16",
       [](NormCall& c) { c.params.stream_out.dtype = REFORMER_FLOAT16; }},
      {REFORMER_ERROR_SHAPE, "stream has rank 2, expected 3",
       [](NormCall& c) { c.params.stream.rank = 2; }},
      {REFORMER_ERROR_SHAPE, "last dimension 0, expected at least 1",
       [](NormCall& c) { c.params.stream.dims[2] = 0; }},
      {REFORMER_ERROR_SHAPE, "update has shape [1, 2, 3], expected [1, 2, 4]",
       [](NormCall& c) { c.params.update.dims[2] = 3; }},
      {REFORMER_ERROR_SHAPE, "bias has shape [5], expected [4]",
       [](NormCall& c) { c.params.bias.dims[0] = 5; }},
      {REFORMER_ERROR_TOO_LARGE, "the size of a row",
       [](NormCall& c) { c.params.stream.dims[2] = int64_t{1} << 31; }},
      {REFORMER_ERROR_NULL_POINTER, "scale has no data",
       [](NormCall& c) { c.params.scale.data = nullptr; }},
      {REFORMER_ERROR_ALIGNMENT, "update is at an address",
       [](NormCall& c) { c.params.update.data = reinterpret_cast<char*>(c.update.data()) + 1; }},
      {REFORMER_ERROR_OVERLAP, "stream_out shares memory",
       [](NormCall& c) { c.params.stream.data = c.stream_out.data() + 1; }},
      {REFORMER_ERROR_OVERLAP, "stream_out shares memory",
       [](NormCall& c) { c.params.update.data = c.stream_out.data(); }},
      {REFORMER_ERROR_OVERLAP, "normed shares memory",
       [](NormCall& c) { c.params.stream.data = c.normed.data(); }},
      {REFORMER_ERROR_OVERLAP, "normed shares memory",
       [](NormCall& c) { c.params.stream_out.data = c.normed.data(); }},
      {REFORMER_ERROR_SHAPE, "ResidualNorm: other_stream has rank 3, expected none",
       [](NormCall& c) { c.params.other_stream = c.params.stream; }},
      {REFORMER_ERROR_SHAPE, "FinalNorm: other_stream has rank 0, expected 3",
       [](NormCall& c) {
         c.make_final();
         c.params.other_stream.rank = 0;
       }},
      {REFORMER_ERROR_DTYPE, "other_stream has dtype float16, expected float32",
       [](NormCall& c) {
         c.make_final();
         c.params.other_stream.dtype = REFORMER_FLOAT16;
       }},
      {REFORMER_ERROR_SHAPE, "other_stream has shape [1, 2, 3], expected [1, 2, 4]",
       [](NormCall& c) {
         c.make_final();
         c.params.other_stream.dims[2] = 3;
       }},
      {REFORMER_ERROR_SHAPE, "scale has shape [4], expected [8]",
       [](NormCall& c) {
         c.make_final();
         c.params.scale.dims[0] = 4;
       }},
      {REFORMER_ERROR_SHAPE, "normed has shape [1, 2, 4], expected [1, 2, 8]",
       [](NormCall& c) {
         c.make_final();
         c.params.normed.dims[2] = 4;
       }},
      {REFORMER_ERROR_TOO_LARGE, "the size of a row is 1073741824",
       [](NormCall& c) {
         c.make_final();
         c.params.stream.dims[2] = int64_t{1} << 30;
       }},
      {REFORMER_ERROR_NULL_POINTER, "other_stream has no data",
       [](NormCall& c) {
         c.make_final();
         c.params.other_stream.data = nullptr;
       }},
      {REFORMER_ERROR_OVERLAP, "normed shares memory",
       [](NormCall& c) {
         c.make_final();
         c.params.normed.data = c.params.update.data;
       }},
      {REFORMER_ERROR_OVERLAP, "normed shares memory",
       [](NormCall& c) {
         c.make_final();
         c.params.normed.data = c.params.other_stream.data;
       }},
  };
  return cases;
}

void check_norm_edges() {
  NormCall call;
  CHECK(reformer_cpu_residual_norm(&call.params) == REFORMER_OK, "%s", call.error);
  CHECK(reformer_cpu_residual_norm(nullptr) == REFORMER_ERROR_NULL_POINTER, "null params");
  CHECK(reformer_cpu_residual_norm_workspace(&call.params, nullptr) == REFORMER_ERROR_NULL_POINTER,
        "null size");
  call.params.other_stream.data = call.stream.data();  // of rank 0: none
  CHECK(reformer_cpu_residual_norm(&call.params) == REFORMER_OK && call.stream_out[7] == 0.75f,
        "no other stream: %s", call.error);
  call.params.stream_out.data = call.stream.data();
  call.params.normed.data = call.update.data();
  CHECK(reformer_cpu_residual_norm(&call.params) == REFORMER_OK, "in place: %s", call.error);
  for (reformer_tensor* tensor :
       {&call.params.stream, &call.params.update, &call.params.stream_out, &call.params.normed}) {
    *tensor = {nullptr, REFORMER_FLOAT32, 3, {1, 0, 4}};
  }
  CHECK(reformer_cpu_residual_norm(&call.params) == REFORMER_OK, "no rows: %s", call.error);
  NormCall last;
  last.make_final();
  CHECK(reformer_cpu_residual_norm(&last.params) == REFORMER_OK, "%s", last.error);
  last.params.other_stream = last.params.stream =
      last.params.update = {nullptr, REFORMER_FLOAT32, 3, {0, 2, 4}};
  last.params.normed = {nullptr, REFORMER_FLOAT32, 3, {0, 2, 8}};
  CHECK(reformer_cpu_residual_norm(&last.params) == REFORMER_OK, "no rows: %s", last.error);
}

void check_edges() {
  Call call;
  CHECK(reformer_cpu_lsh_attention(&call.params) == REFORMER_OK, "%s", call.error);
  CHECK(reformer_cpu_lsh_attention(nullptr) == REFORMER_ERROR_NULL_POINTER, "null params");
  CHECK(reformer_cpu_lsh_attention_workspace(&call.params, nullptr) == REFORMER_ERROR_NULL_POINTER,
        "null size");
  // No tokens: nothing to do, data may be null.
  for (reformer_tensor* tensor :
       {&call.params.query_key, &call.params.value, &call.params.output}) {
    *tensor = {nullptr, REFORMER_FLOAT32, 3, {1, 0, 8}};
  }
  call.params.buckets = {nullptr, REFORMER_INT32, 4, {1, 2, 3, 0}};
  call.params.attention_mask = {nullptr, REFORMER_INT32, 2, {1, 0}};
  CHECK(reformer_cpu_lsh_attention(&call.params) == REFORMER_OK, "%s", call.error);
  // A message longer than its room is cut, and ended.
  call.params.num_heads = 0;
  call.params.execution.error_size = 5;
  CHECK(reformer_cpu_lsh_attention(&call.params) == REFORMER_ERROR_ATTRIBUTE, "num_heads 0");
  CHECK(std::strlen(call.error) == 4, "message \"%s\"", call.error);
}

void check_library() {
  reformer_library library{};
  CHECK(reformer_library_info(&library) == REFORMER_ERROR_VERSION, "struct_size 0");
  library.struct_size = sizeof(library);
  CHECK(reformer_library_info(&library) == REFORMER_OK, "info");
  CHECK(library.abi_version == REFORMER_ABI_VERSION, "abi %u", library.abi_version);
  CHECK(library.version[0] != '\0' && library.cpu_target[0] != '\0', "empty text");
  for (int status = 0; status <= REFORMER_ERROR_PROCESSOR; ++status) {
    const char* text = reformer_status_text(static_cast<reformer_status>(status));
    CHECK(std::strcmp(text, "unknown status") != 0, "status %d has no text", status);
  }
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  check_wrong(wrong_cases(), reformer_cpu_lsh_attention);
  check_wrong(wrong_norms(), reformer_cpu_residual_norm);
  check_edges();
  check_norm_edges();
  check_library();
  return FINISH_TEST();
}
