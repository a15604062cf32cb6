// LSHAttentionStep and LocalAttentionStep on the CPU, on every instruction set: against the last
// row of the whole operators' written-down reference, in memory of exactly the size that they may
// touch.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "compare.h"
#include "draw.h"
#include "kernels/cpu/cpu_target.h"
#include "reference.h"
#include "reformer_kernels.h"

namespace reformer::test {
namespace {

using Bytes = std::vector<char>;

reformer_tensor view(void* data, int32_t dtype, std::initializer_list<int64_t> dims) {
  reformer_tensor tensor{data, dtype, static_cast<int32_t>(dims.size()), {}};
  std::copy(dims.begin(), dims.end(), tensor.dims);
  return tensor;
}

// The last token of every sequence of `whole` as a step, on caches with room for `room` more.
struct Step {
  explicit Step(const Attention& whole, int64_t room);
  Step(const Step&) = delete;

  Bytes cut(const std::vector<float>& values, bool last) const;
  Bytes ring(const std::vector<float>& values) const;
  std::vector<int32_t> cut_buckets(bool last) const;
  reformer_status run(int32_t workers, bool in_place);

  const Attention& whole;
  const int64_t capacity;
  Bytes query, key, value, output, keys, values, present_keys, present_values, workspace;
  std::vector<int32_t> new_buckets, buckets, present_buckets, lengths, new_lengths;
  char error[256] = "";
};

Step::Step(const Attention& call, int64_t room)
    : whole(call),
      capacity(call.lsh ? call.length + room
                        : (call.chunking.num_chunks_before + 1) * call.chunking.chunk_length) {
  const auto& all_keys = call.lsh ? call.query : call.key;
  query = cut(call.query, true);
  key = cut(all_keys, true);
  value = cut(call.value, true);
  keys = call.lsh ? cut(all_keys, false) : ring(all_keys);
  values = call.lsh ? cut(call.value, false) : ring(call.value);
  if (call.lsh) {
    new_buckets = cut_buckets(true);
    buckets = cut_buckets(false);
  }
  lengths.assign(static_cast<size_t>(call.batch), static_cast<int32_t>(call.length - 1));
  new_lengths.assign(lengths.size(), 1);
  output.resize(query.size());
}

// The last token, or the others with garbage behind them.
Bytes Step::cut(const std::vector<float>& values_in, bool last) const {
  const int64_t width = whole.heads * whole.head_size;
  std::vector<float> tokens;
  for (int64_t b = 0; b < whole.batch; ++b) {
    const auto begin = values_in.begin() + b * whole.length * width;
    const auto end = begin + (whole.length - 1) * width;
    tokens.insert(tokens.end(), last ? end : begin, last ? end + width : end);
    if (!last) tokens.resize(static_cast<size_t>((b + 1) * capacity * width), 8.0f);
  }
  return encode(whole.dtype, tokens);
}

Bytes Step::ring(const std::vector<float>& values_in) const {
  const int64_t width = whole.heads * whole.head_size;
  std::vector<float> tokens(static_cast<size_t>(whole.batch * capacity * width), 8.0f);
  for (int64_t b = 0; b < whole.batch; ++b) {
    for (int64_t p = 0; p + 1 < whole.length; ++p) {
      std::copy_n(values_in.begin() + (b * whole.length + p) * width, width,
                  tokens.begin() + (b * capacity + p % capacity) * width);
    }
  }
  return encode(whole.dtype, tokens);
}

std::vector<int32_t> Step::cut_buckets(bool last) const {
  std::vector<int32_t> tokens;
  for (int64_t line = 0; line < whole.batch * whole.heads * whole.rounds; ++line) {
    const auto begin = whole.buckets.begin() + line * whole.length;
    const auto end = begin + whole.length - 1;
    tokens.insert(tokens.end(), last ? end : begin, last ? end + 1 : end);
    if (!last) tokens.resize(static_cast<size_t>((line + 1) * capacity), 0);
  }
  return tokens;
}

template <typename Params>
reformer_status call_kernel(Params& params, Bytes& workspace, int32_t workers, char (&error)[256],
                            reformer_status (*measure)(const Params*, uint64_t*),
                            reformer_status (*run)(const Params*)) {
  params.struct_size = sizeof(params);
  params.abi_version = REFORMER_ABI_VERSION;
  params.execution.num_workers = workers;
  params.execution.parallel_for = run_on_threads;
  params.execution.error = error;
  params.execution.error_size = sizeof(error);
  uint64_t size = 0;
  if (const auto status = measure(&params, &size)) return status;
  workspace.assign(static_cast<size_t>(size), 0);
  params.execution.workspace = workspace.data();
  params.execution.workspace_size = size;
  return run(&params);
}

template <typename Params>
Params describe(const Attention& call, const std::vector<int32_t>& lengths,
                const std::vector<int32_t>& new_lengths, Bytes& output) {
  Params params{};
  params.num_heads = static_cast<int32_t>(call.heads);
  params.self_logit = call.own_logit();
  params.chunking = call.chunking;
  params.lengths = view(const_cast<int32_t*>(lengths.data()), REFORMER_INT32, {call.batch});
  params.new_lengths = view(const_cast<int32_t*>(new_lengths.data()), REFORMER_INT32, {call.batch});
  params.output = view(output.data(), call.dtype, {call.batch, 1, call.heads * call.head_size});
  return params;
}

reformer_status Step::run(int32_t workers, bool in_place) {
  const int64_t b = whole.batch;
  const int64_t width = whole.heads * whole.head_size;
  const auto fresh = [&](Bytes& data) { return view(data.data(), whole.dtype, {b, 1, width}); };
  const auto cache = [&](Bytes& data) {
    return view(data.data(), whole.dtype, {b, capacity, width});
  };
  const auto hashed = [&](std::vector<int32_t>& data, int64_t tokens) {
    return view(data.data(), REFORMER_INT32, {b, whole.heads, whole.rounds, tokens});
  };
  present_keys.resize(keys.size());
  present_values.resize(values.size());
  present_buckets.resize(buckets.size());
  Bytes& next_keys = in_place ? keys : present_keys;
  Bytes& next_values = in_place ? values : present_values;
  if (!whole.lsh) {
    auto params =
        describe<reformer_local_attention_step_params>(whole, lengths, new_lengths, output);
    params.wraps = whole.wraps ? 1 : 0;
    params.query = fresh(query);
    params.key = fresh(key);
    params.value = fresh(value);
    params.past_key = cache(keys);
    params.past_value = cache(values);
    params.present_key = cache(next_keys);
    params.present_value = cache(next_values);
    return call_kernel(params, workspace, workers, error,
                       reformer_cpu_local_attention_step_workspace,
                       reformer_cpu_local_attention_step);
  }
  auto params = describe<reformer_lsh_attention_step_params>(whole, lengths, new_lengths, output);
  params.key_norm_epsilon = whole.epsilon;
  params.dense_threshold = whole.most_dense();
  params.query_key = fresh(query);
  params.value = fresh(value);
  params.new_buckets = hashed(new_buckets, 1);
  params.past_query_key = cache(keys);
  params.past_value = cache(values);
  params.past_buckets = hashed(buckets, capacity);
  params.present_query_key = cache(next_keys);
  params.present_value = cache(next_values);
  params.present_buckets = hashed(in_place ? buckets : present_buckets, capacity);
  return call_kernel(params, workspace, workers, error, reformer_cpu_lsh_attention_step_workspace,
                     reformer_cpu_lsh_attention_step);
}

// A call of the whole operator that a step can be.
Attention draw_causal(Random& random) {
  Attention call = draw_attention(random);
  call.chunking.num_chunks_after = 0;
  call.chunking.is_causal = 1;
  call.chunking.padding_multiple = call.chunking.chunk_length * draw_int(random, 1, 3);
  const int64_t chunk = call.chunking.chunk_length;
  const int64_t unpadded = call.lsh ? std::min(call.most_dense(), chunk) : chunk;
  call.chunking.padding_threshold = draw_int(random, 0, unpadded);
  std::fill(call.mask.begin(), call.mask.end(), 1);
  return call;
}

std::vector<float> last_rows(const Attention& call, const std::vector<float>& whole) {
  const int64_t width = call.heads * call.head_size;
  std::vector<float> rows;
  for (int64_t b = 0; b < call.batch; ++b) {
    const auto begin = whole.begin() + ((b + 1) * call.length - 1) * width;
    rows.insert(rows.end(), begin, begin + width);
  }
  return rows;
}

void check_step(const Attention& call, int index, int64_t room) {
  const std::vector<float> expected = last_rows(call, attention_reference(call));
  for (const CpuTarget target : {CpuTarget::kFallback, CpuTarget::kAvx2, CpuTarget::kAvx512}) {
    set_cpu_target(target);
    Step step(call, room);
    const reformer_status status = step.run(1, false);
    CHECK(status == REFORMER_OK, "case %d: %s", index, step.error);
    const double error = measure_error(call, decode(call.dtype, step.output), expected);
    CHECK(error < 2e-5, "case %d (%s, dtype %d, L %lld, R %lld, C %lld, before %lld, %s): error %g",
          index, call.lsh ? "LSH" : "local", call.dtype, static_cast<long long>(call.length),
          static_cast<long long>(call.rounds), static_cast<long long>(call.chunking.chunk_length),
          static_cast<long long>(call.chunking.num_chunks_before), cpu_target_name(), error);
    const Bytes output = step.output;
    std::fill(step.output.begin(), step.output.end(), '\x7f');
    CHECK(step.run(3, true) == REFORMER_OK, "case %d in place: %s", index, step.error);
    CHECK(step.output == output, "case %d differs in place or with 3 workers", index);
    CHECK(step.keys == step.present_keys && step.values == step.present_values &&
              step.buckets == step.present_buckets,
          "case %d: caches differ in place", index);
  }
}

// More tokens in the buckets around a window than are worth gathering, and a bucket for each token.
void check_crowds(Random& random) {
  Attention call;
  call.heads = 2;
  call.length = 3000;
  call.head_size = 8;
  call.rounds = 2;
  call.chunking = {64, 1, 0, 128, 64, 1};
  call.query = draw_values(random, REFORMER_FLOAT32, call.length * 16, 1.0f);
  call.value = draw_values(random, REFORMER_FLOAT32, call.length * 16, 1.0f);
  call.mask.assign(3000, 1);
  for (const int64_t highest : {int64_t{0}, int64_t{2}, int64_t{30}, int64_t{5000}}) {
    call.buckets.resize(4 * 3000);
    for (int32_t& bucket : call.buckets) {
      bucket = static_cast<int32_t>(draw_int(random, 0, highest));
    }
    check_step(call, -1, 7);
  }
}

// Whatever the caches hold, memory that is not the call's stays untouched.
void check_garbage(Random& random) {
  Attention call = draw_causal(random);
  while (!call.lsh) call = draw_causal(random);
  Step step(call, 2);
  for (size_t i = 0; i < step.buckets.size(); i += 3) step.buckets[i] = INT32_MIN;
  step.run(2, true);
}

void check_refusal(reformer_status expected, const char* message, Step& step) {
  const Bytes keys = step.keys;
  const reformer_status status = step.run(1, true);
  CHECK(status == expected, "status %d, expected %d (%s): %s", status, expected, message,
        step.error);
  CHECK(std::strstr(step.error, message) != nullptr, "message \"%s\" lacks \"%s\"", step.error,
        message);
  CHECK(step.keys == keys, "the cache was touched (%s)", message);
}

void check_refusals(Random& random) {
  Attention call = draw_causal(random);
  while (!call.lsh || call.length < 2) call = draw_causal(random);
  Step long_row(call, 0);
  long_row.lengths.back() = static_cast<int32_t>(long_row.capacity);
  check_refusal(REFORMER_ERROR_LENGTHS, "together at most", long_row);
  Step many(call, 0);
  many.new_lengths.back() = 2;
  check_refusal(REFORMER_ERROR_LENGTHS, "new tokens of at most 1", many);
  Step negative(call, 0);
  negative.lengths[0] = -1;
  check_refusal(REFORMER_ERROR_LENGTHS, "at least 0", negative);
  Step bucket(call, 0);
  bucket.new_buckets.back() = -1;
  check_refusal(REFORMER_ERROR_BUCKETS, "new_buckets", bucket);
  call.chunking.num_chunks_after = 1;
  Step after(call, 0);
  check_refusal(REFORMER_ERROR_ATTRIBUTE, "num_chunks_after is 1, expected 0 to 0", after);
  call.chunking.num_chunks_after = 0;
  call.dense_threshold = 3;
  call.chunking.padding_threshold = 4;
  Step unpadded(call, 0);
  check_refusal(REFORMER_ERROR_ATTRIBUTE, "padding_threshold is 4, expected 0 to 3", unpadded);
  call.self_logit = 1e9f;
  Step masked(call, 0);
  check_refusal(REFORMER_ERROR_ATTRIBUTE, "self_logit is 1e+09", masked);
}

}  // namespace
}  // namespace reformer::test

int main(int argc, char** argv) {
  using namespace reformer::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(12);
  for (int i = 0; i < cases; ++i) check_step(draw_causal(random), i, i % 3);
  for (int i = 0; i < 20; ++i) check_garbage(random);
  check_crowds(random);
  check_refusals(random);
  return FINISH_TEST();
}
