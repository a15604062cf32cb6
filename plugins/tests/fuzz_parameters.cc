// Fuzz target for parameter validation: whatever the parameters say, a call returns a status and
// stays inside the memory it was given. Built with libFuzzer where the compiler has it, else with
// fuzz_driver.cc.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "fuzz_bytes.h"
#include "reformer_kernels.h"

// The backend under test: with REFORMER_FUZZ_CUDA the CUDA operators, on the emulated device.
#if defined(REFORMER_FUZZ_CUDA)
#define BACKEND(function) reformer_cuda_##function
#else
#define BACKEND(function) reformer_cpu_##function
#endif

using reformer::test::Bytes;

namespace {

constexpr int kOperators = 6;

// Windows of more chunks are for the workspace query only: the emulated device takes seconds each.
// Steps visit them one by one everywhere.
#if defined(REFORMER_FUZZ_CUDA)
constexpr int64_t kMostChunks = 1000;
constexpr int64_t kMostStepChunks = 100;
#else
constexpr int64_t kMostChunks = INT64_MAX;
constexpr int64_t kMostStepChunks = 1000;
#endif

constexpr int64_t kBatch = 2, kLength = 12, kHeads = 2, kHeadSize = 5, kRounds = 3, kColumns = 3;
constexpr size_t kArena = 1 << 16;  // bytes behind every tensor: more than any accepted shape needs

struct Arena {
  std::vector<std::vector<uint8_t>> blocks;
  uint8_t* take() {
    blocks.emplace_back(kArena, uint8_t{0});
    return blocks.back().data();
  }
};

reformer_tensor fuzz_tensor(Bytes& bytes, Arena& arena, int32_t dtype,
                            std::initializer_list<int64_t> dims) {
  reformer_tensor tensor{};
  const uint8_t choice = bytes.byte();
  tensor.data = choice == 255 ? nullptr : arena.take() + (choice == 254 ? 1 : 0);
  tensor.dtype = static_cast<int32_t>(bytes.number(dtype));
  tensor.rank = static_cast<int32_t>(bytes.number(static_cast<int64_t>(dims.size())));
  std::transform(dims.begin(), dims.end(), tensor.dims,
                 [&](int64_t size) { return bytes.number(size); });
  return tensor;
}

// Would the call read or write beyond the arena? Such shapes are for the workspace query only.
bool fits_arena(std::initializer_list<const reformer_tensor*> tensors) {
  for (const reformer_tensor* tensor : tensors) {
    uint64_t bytes = 4;
    for (int32_t i = 0; i < std::min(tensor->rank, 4); ++i) {
      if (tensor->dims[i] < 0 || tensor->dims[i] > static_cast<int64_t>(kArena)) return false;
      bytes *= static_cast<uint64_t>(tensor->dims[i]);
      if (bytes > kArena - 8) return false;
    }
  }
  return true;
}

bool fits_time(const reformer_chunking& chunking) {
  return chunking.num_chunks_before <= kMostChunks && chunking.num_chunks_after <= kMostChunks;
}

template <typename Params>
void fuzz_call(Bytes& bytes, Params& params, bool runnable,
               reformer_status (*measure)(const Params*, uint64_t*),
               reformer_status (*run)(const Params*)) {
  char error[64];
  params.struct_size = static_cast<uint32_t>(bytes.number(sizeof(Params)));
  params.abi_version = static_cast<uint32_t>(bytes.number(REFORMER_ABI_VERSION));
  if constexpr (!std::is_same_v<Params, reformer_residual_norm_params>) {
    params.num_heads = static_cast<int32_t>(bytes.number(kHeads));
  }
  params.execution.num_workers = static_cast<int32_t>(bytes.number(2));
  params.execution.error = bytes.byte() == 255 ? nullptr : error;
  params.execution.error_size = bytes.byte() % (sizeof(error) + 1);
  uint64_t size = 0;
  const reformer_status status = measure(&params, &size);
  reformer_status_text(status);
  if (!runnable || size > (1 << 26)) return;
  std::vector<uint8_t> workspace(size + 1);
  const uint64_t given = bytes.byte() == 255 && size > 0 ? size - 1 : size;
  params.execution.workspace = bytes.byte() == 255 ? nullptr : workspace.data() + 1;
  params.execution.workspace_size = given;
  run(&params);
}

void fuzz_buckets(Bytes& bytes, Arena& arena) {
  reformer_lsh_buckets_params params{};
  params.num_factors = static_cast<int32_t>(bytes.number(2));
  for (int32_t& factor : params.num_buckets) factor = static_cast<int32_t>(bytes.number(2));
  params.num_buckets[1] = static_cast<int32_t>(bytes.number(4));
  params.query_key =
      fuzz_tensor(bytes, arena, bytes.byte() % 3, {kBatch, kLength, kHeads * kHeadSize});
  params.rotations =
      fuzz_tensor(bytes, arena, REFORMER_FLOAT32, {kHeads, kHeadSize, kRounds, kColumns});
  params.attention_mask = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch, kLength});
  params.buckets = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch, kHeads, kRounds, kLength});
  const bool runnable =
      fits_arena({&params.query_key, &params.rotations, &params.attention_mask, &params.buckets});
  fuzz_call(bytes, params, runnable, BACKEND(lsh_buckets_workspace), BACKEND(lsh_buckets));
}

reformer_chunking fuzz_chunking(Bytes& bytes) {
  return {bytes.number(4), bytes.number(1), bytes.number(1),
          bytes.number(4), bytes.number(4), static_cast<int32_t>(bytes.number(bytes.byte() % 2))};
}

float fuzz_self_logit(Bytes& bytes) {
  return bytes.byte() % 3 == 0 ? std::numeric_limits<float>::infinity()
                               : -static_cast<float>(bytes.number(50000));
}

void fuzz_lsh(Bytes& bytes, Arena& arena) {
  reformer_lsh_attention_params params{};
  const std::initializer_list<int64_t> hidden = {kBatch, kLength, kHeads * kHeadSize};
  const int32_t dtype = bytes.byte() % 3;
  params.key_norm_epsilon = static_cast<float>(bytes.number(1));
  params.self_logit = fuzz_self_logit(bytes);
  params.dense_threshold = bytes.number(4);
  params.chunking = fuzz_chunking(bytes);
  params.query_key = fuzz_tensor(bytes, arena, dtype, hidden);
  params.value = fuzz_tensor(bytes, arena, dtype, hidden);
  params.buckets = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch, kHeads, kRounds, kLength});
  params.attention_mask = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch, kLength});
  params.output = fuzz_tensor(bytes, arena, dtype, hidden);
  const bool runnable =
      fits_time(params.chunking) && fits_arena({&params.query_key, &params.value, &params.buckets,
                                                &params.attention_mask, &params.output});
  fuzz_call(bytes, params, runnable, BACKEND(lsh_attention_workspace), BACKEND(lsh_attention));
}

void fuzz_local(Bytes& bytes, Arena& arena) {
  reformer_local_attention_params params{};
  const std::initializer_list<int64_t> hidden = {kBatch, kLength, kHeads * kHeadSize};
  const int32_t dtype = bytes.byte() % 3;
  params.chunking = fuzz_chunking(bytes);
  params.self_logit = fuzz_self_logit(bytes);
  params.wraps = static_cast<int32_t>(bytes.number(bytes.byte() % 2));
  params.query = fuzz_tensor(bytes, arena, dtype, hidden);
  params.key = fuzz_tensor(bytes, arena, dtype, hidden);
  params.value = fuzz_tensor(bytes, arena, dtype, hidden);
  params.attention_mask = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch, kLength});
  params.output = fuzz_tensor(bytes, arena, dtype, hidden);
  const bool runnable =
      fits_time(params.chunking) && fits_arena({&params.query, &params.key, &params.value,
                                                &params.attention_mask, &params.output});
  fuzz_call(bytes, params, runnable, BACKEND(local_attention_workspace), BACKEND(local_attention));
}

reformer_chunking fuzz_step_chunking(Bytes& bytes) {
  return {bytes.number(4), bytes.number(1), bytes.number(0),
          bytes.number(4), bytes.number(4), static_cast<int32_t>(bytes.number(1))};
}

bool fits_steps(const reformer_chunking& chunking) {
  return chunking.num_chunks_before <= kMostStepChunks;
}

reformer_tensor fuzz_lengths(Bytes& bytes, Arena& arena) {
  const reformer_tensor lengths = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch});
  if (lengths.data == nullptr || reinterpret_cast<uintptr_t>(lengths.data) % 4 != 0) return lengths;
  for (int64_t row = 0; row < kBatch; ++row) {
    static_cast<int32_t*>(lengths.data)[row] = static_cast<int32_t>(bytes.number(bytes.byte() % 4));
  }
  return lengths;
}

// Its past itself, or memory of its own.
reformer_tensor fuzz_present(Bytes& bytes, Arena& arena, const reformer_tensor& past) {
  reformer_tensor present = past;
  if (bytes.byte() % 2 == 0) present.data = arena.take();
  if (bytes.byte() > 250) present.dims[1] = bytes.number(past.dims[1]);
  return present;
}

void fuzz_norm(Bytes& bytes, Arena& arena) {
  reformer_residual_norm_params params{};
  const std::initializer_list<int64_t> hidden = {kBatch, kLength, kHeads * kHeadSize};
  const int32_t dtype = bytes.byte() % 3;
  const bool is_final = bytes.byte() % 2 == 0;
  const int64_t width = (is_final ? 2 : 1) * kHeads * kHeadSize;
  params.epsilon = static_cast<float>(bytes.number(1));
  if (is_final) params.other_stream = fuzz_tensor(bytes, arena, REFORMER_FLOAT32, hidden);
  params.stream = fuzz_tensor(bytes, arena, REFORMER_FLOAT32, hidden);
  params.update = fuzz_tensor(bytes, arena, dtype, hidden);
  params.scale = fuzz_tensor(bytes, arena, REFORMER_FLOAT32, {width});
  params.bias = fuzz_tensor(bytes, arena, REFORMER_FLOAT32, {width});
  if (!is_final) params.stream_out = fuzz_tensor(bytes, arena, REFORMER_FLOAT32, hidden);
  params.normed = fuzz_tensor(bytes, arena, dtype, {kBatch, kLength, width});
  if (bytes.byte() % 4 == 0) params.stream_out.data = params.stream.data;
  if (bytes.byte() % 4 == 0) params.normed.data = params.update.data;
  const bool runnable =
      fits_arena({&params.other_stream, &params.stream, &params.update, &params.scale, &params.bias,
                  &params.stream_out, &params.normed});
  fuzz_call(bytes, params, runnable, BACKEND(residual_norm_workspace), BACKEND(residual_norm));
}

void fuzz_lsh_step(Bytes& bytes, Arena& arena) {
  reformer_lsh_attention_step_params params{};
  const int32_t dtype = bytes.byte() % 3;
  const int64_t tokens = bytes.byte() % 2 == 0 ? 1 : 3;
  const std::initializer_list<int64_t> fresh = {kBatch, tokens, kHeads * kHeadSize};
  const std::initializer_list<int64_t> cache = {kBatch, kLength, kHeads * kHeadSize};
  const std::initializer_list<int64_t> hashed = {kBatch, kHeads, kRounds, kLength};
  params.key_norm_epsilon = static_cast<float>(bytes.number(1));
  params.self_logit = fuzz_self_logit(bytes);
  params.dense_threshold = bytes.number(4);
  params.chunking = fuzz_step_chunking(bytes);
  params.query_key = fuzz_tensor(bytes, arena, dtype, fresh);
  params.value = fuzz_tensor(bytes, arena, dtype, fresh);
  params.new_buckets = fuzz_tensor(bytes, arena, REFORMER_INT32, {kBatch, kHeads, kRounds, tokens});
  params.past_query_key = fuzz_tensor(bytes, arena, dtype, cache);
  params.past_value = fuzz_tensor(bytes, arena, dtype, cache);
  params.past_buckets = fuzz_tensor(bytes, arena, REFORMER_INT32, hashed);
  params.lengths = fuzz_lengths(bytes, arena);
  params.new_lengths = fuzz_lengths(bytes, arena);
  params.output = fuzz_tensor(bytes, arena, dtype, fresh);
  params.present_query_key = fuzz_present(bytes, arena, params.past_query_key);
  params.present_value = fuzz_present(bytes, arena, params.past_value);
  params.present_buckets = fuzz_present(bytes, arena, params.past_buckets);
  const bool runnable = fits_arena(
      {&params.query_key, &params.value, &params.new_buckets, &params.past_query_key,
       &params.past_value, &params.past_buckets, &params.lengths, &params.new_lengths,
       &params.output, &params.present_query_key, &params.present_value, &params.present_buckets});
  fuzz_call(bytes, params, runnable && fits_steps(params.chunking),
            BACKEND(lsh_attention_step_workspace), BACKEND(lsh_attention_step));
}

void fuzz_local_step(Bytes& bytes, Arena& arena) {
  reformer_local_attention_step_params params{};
  const int32_t dtype = bytes.byte() % 3;
  const int64_t tokens = bytes.byte() % 2 == 0 ? 1 : 3;
  const std::initializer_list<int64_t> fresh = {kBatch, tokens, kHeads * kHeadSize};
  const std::initializer_list<int64_t> cache = {kBatch, 8, kHeads * kHeadSize};
  params.chunking = fuzz_step_chunking(bytes);
  params.self_logit = fuzz_self_logit(bytes);
  params.wraps = static_cast<int32_t>(bytes.number(bytes.byte() % 2));
  params.query = fuzz_tensor(bytes, arena, dtype, fresh);
  params.key = fuzz_tensor(bytes, arena, dtype, fresh);
  params.value = fuzz_tensor(bytes, arena, dtype, fresh);
  params.past_key = fuzz_tensor(bytes, arena, dtype, cache);
  params.past_value = fuzz_tensor(bytes, arena, dtype, cache);
  params.lengths = fuzz_lengths(bytes, arena);
  params.new_lengths = fuzz_lengths(bytes, arena);
  params.output = fuzz_tensor(bytes, arena, dtype, fresh);
  params.present_key = fuzz_present(bytes, arena, params.past_key);
  params.present_value = fuzz_present(bytes, arena, params.past_value);
  const bool runnable = fits_arena({&params.query, &params.key, &params.value, &params.past_key,
                                    &params.past_value, &params.lengths, &params.new_lengths,
                                    &params.output, &params.present_key, &params.present_value});
  fuzz_call(bytes, params, runnable && fits_steps(params.chunking),
            BACKEND(local_attention_step_workspace), BACKEND(local_attention_step));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  Arena arena;
  switch (bytes.byte() % kOperators) {
    case 0:
      fuzz_buckets(bytes, arena);
      break;
    case 1:
      fuzz_lsh(bytes, arena);
      break;
    case 2:
      fuzz_norm(bytes, arena);
      break;
    case 3:
      fuzz_local(bytes, arena);
      break;
    case 4:
      fuzz_lsh_step(bytes, arena);
      break;
    default:
      fuzz_local_step(bytes, arena);
  }
  return 0;
}
