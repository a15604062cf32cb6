#include "operands.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "check.h"
#include "half.h"

namespace reformer::test {
namespace {

constexpr size_t kErrorSize = 512;
constexpr char kPoison = -1;  // as bytes: NaN in every T, -1 in int32

void fill_execution(reformer_execution* execution, int32_t workers, char* error) {
  *execution = {};
  execution->num_workers = workers;
  execution->parallel_for = workers > 1 ? run_on_threads : nullptr;
  execution->error = error;
  execution->error_size = kErrorSize;
}

// Measures the workspace, allocates exactly that (so that a sanitizer sees any overrun), and runs.
template <typename Params>
void call_kernel(Params& params, reformer_status (*measure)(const Params*, uint64_t*),
                 reformer_status (*run)(const Params*)) {
  params.struct_size = sizeof(Params);
  params.abi_version = REFORMER_ABI_VERSION;
  uint64_t size = 0;
  reformer_status status = measure(&params, &size);
  CHECK(status == REFORMER_OK, "%s: %s", reformer_status_text(status), params.execution.error);
  std::vector<char> workspace(size, kPoison);
  params.execution.workspace = workspace.data();
  params.execution.workspace_size = size;
  status = run(&params);
  CHECK(status == REFORMER_OK, "%s: %s", reformer_status_text(status), params.execution.error);
}

// A T tensor's memory: `offset` elements that are not the tensor's, then the elements.
class Memory {
 public:
  Memory(int32_t dtype, const std::vector<float>& values, int64_t offset)
      : dtype_(dtype), offset_(static_cast<size_t>(offset) * (dtype == REFORMER_FLOAT32 ? 4 : 2)) {
    const std::vector<char> elements = encode(dtype, values);
    bytes_.assign(offset_, kPoison);
    bytes_.insert(bytes_.end(), elements.begin(), elements.end());
  }

  void poison() { std::fill(bytes_.begin(), bytes_.end(), kPoison); }
  reformer_tensor view(int64_t b, int64_t l, int64_t width) {
    return {bytes_.data() + offset_, dtype_, 3, {b, l, width}};
  }
  std::vector<float> read() const {
    return decode(dtype_, {bytes_.begin() + static_cast<std::ptrdiff_t>(offset_), bytes_.end()});
  }

 private:
  int32_t dtype_;
  size_t offset_;  // bytes
  std::vector<char> bytes_;
};

reformer_tensor view_mask(const std::vector<int32_t>& mask, int64_t b, int64_t l) {
  return {const_cast<int32_t*>(mask.data()), REFORMER_INT32, 2, {b, l}};
}

}  // namespace

const Backend kCpuBackend = {"CPU",
                             reformer_cpu_lsh_buckets_workspace,
                             reformer_cpu_lsh_buckets,
                             reformer_cpu_lsh_attention_workspace,
                             reformer_cpu_lsh_attention,
                             reformer_cpu_local_attention_workspace,
                             reformer_cpu_local_attention};

void run_on_threads(void* /*context*/, int64_t total, reformer_task task, void* argument) {
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < total; ++i) threads.emplace_back(task, argument, i);
  for (std::thread& thread : threads) thread.join();
}

std::vector<char> encode(int32_t dtype, const std::vector<float>& values) {
  if (dtype == REFORMER_FLOAT32) {
    std::vector<char> bytes(values.size() * sizeof(float));
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  std::vector<char> bytes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = half_from_float(dtype, values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

std::vector<float> decode(int32_t dtype, const std::vector<char>& bytes) {
  const size_t size = dtype == REFORMER_FLOAT32 ? 4 : 2;
  std::vector<float> values(bytes.size() / size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == REFORMER_FLOAT32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    } else {
      uint16_t half = 0;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      values[i] = float_from_half(dtype, half);
    }
  }
  return values;
}

std::vector<float> run_attention(const Attention& call, int32_t workers, const Backend& backend) {
  Memory query(call.dtype, call.query, call.offset);
  Memory key(call.dtype, call.key, call.offset);
  Memory value(call.dtype, call.value, call.offset);
  Memory output(call.dtype, call.value, call.offset);
  output.poison();
  char error[kErrorSize] = "";
  const auto view = [&](Memory& memory) {
    return memory.view(call.batch, call.length, call.heads * call.head_size);
  };
  const auto fill = [&](auto* params) {
    params->num_heads = static_cast<int32_t>(call.heads);
    params->self_logit = call.own_logit();
    params->chunking = call.chunking;
    params->value = view(value);
    params->attention_mask = view_mask(call.mask, call.batch, call.length);
    params->output = view(output);
    fill_execution(&params->execution, workers, error);
  };
  if (call.lsh) {
    reformer_lsh_attention_params params{};
    fill(&params);
    params.key_norm_epsilon = call.epsilon;
    params.dense_threshold = call.most_dense();
    params.query_key = view(query);
    params.buckets = {const_cast<int32_t*>(call.buckets.data()),
                      REFORMER_INT32,
                      4,
                      {call.batch, call.heads, call.rounds, call.length}};
    call_kernel(params, backend.lsh_attention_workspace, backend.lsh_attention);
  } else {
    reformer_local_attention_params params{};
    fill(&params);
    params.wraps = call.wraps ? 1 : 0;
    params.query = view(query);
    params.key = view(key);
    call_kernel(params, backend.local_attention_workspace, backend.local_attention);
  }
  return output.read();
}

std::vector<int32_t> run_hash(const Hash& call, int32_t workers, const Backend& backend) {
  Memory query_key(call.dtype, call.query_key, call.offset);
  std::vector<int32_t> buckets(
      static_cast<size_t>(call.batch * call.heads * call.rounds * call.length), -1);
  char error[kErrorSize] = "";
  reformer_lsh_buckets_params params{};
  params.num_heads = static_cast<int32_t>(call.heads);
  params.num_factors = static_cast<int32_t>(call.factors.size());
  for (size_t i = 0; i < call.factors.size(); ++i) params.num_buckets[i] = call.factors[i];
  params.query_key = query_key.view(call.batch, call.length, call.heads * call.head_size);
  params.rotations = {const_cast<float*>(call.rotations.data()),
                      REFORMER_FLOAT32,
                      4,
                      {call.heads, call.head_size, call.rounds, call.rotation_size()}};
  params.attention_mask = view_mask(call.mask, call.batch, call.length);
  params.buckets = {
      buckets.data(), REFORMER_INT32, 4, {call.batch, call.heads, call.rounds, call.length}};
  fill_execution(&params.execution, workers, error);
  call_kernel(params, backend.lsh_buckets_workspace, backend.lsh_buckets);
  return buckets;
}

}  // namespace reformer::test
