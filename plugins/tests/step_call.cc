#include "step_call.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "check.h"
#include "reference.h"

namespace reformer::test {
namespace {

constexpr float kBehindHeld = 8.0f;   // in a cache, where no token is held
constexpr float kBehindFresh = 3.0f;  // in a row's new tokens, behind its own
constexpr char kPoison = '\x7f';

size_t element_size(int32_t dtype) { return dtype == REFORMER_FLOAT32 ? 4 : 2; }

reformer_tensor view(void* data, int32_t dtype, std::initializer_list<int64_t> dims) {
  reformer_tensor tensor{data, dtype, static_cast<int32_t>(dims.size()), {}};
  std::copy(dims.begin(), dims.end(), tensor.dims);
  return tensor;
}

// Elements behind call.offset others, which are not the tensor's.
Step::Bytes encode_behind(const Attention& call, const std::vector<float>& elements) {
  Step::Bytes bytes(static_cast<size_t>(call.offset) * element_size(call.dtype), kPoison);
  const Step::Bytes encoded = encode(call.dtype, elements);
  bytes.insert(bytes.end(), encoded.begin(), encoded.end());
  return bytes;
}

// Tokens [begin, begin + count) of a row of [B, L, width] to a place of [B, room, width].
struct Move {
  int64_t row, begin, count, place;
};

class Tokens {
 public:
  Tokens(const Attention& call, const std::vector<float>& from, int64_t room, float filler)
      : call_(call),
        from_(from),
        room_(room),
        width_(call.heads * call.head_size),
        to_(static_cast<size_t>(call.batch * room * width_), filler) {}

  void move(const Move& move) {
    std::copy_n(from_.begin() + (move.row * call_.length + move.begin) * width_,
                move.count * width_, to_.begin() + (move.row * room_ + move.place) * width_);
  }
  Step::Bytes bytes() const { return encode_behind(call_, to_); }

 private:
  const Attention& call_;
  const std::vector<float>& from_;
  int64_t room_, width_;
  std::vector<float> to_;
};

// The rows' new tokens.
Step::Bytes take_fresh(const Step& step, const std::vector<float>& values) {
  Tokens tokens(step.whole, values, step.rows.tokens, kBehindFresh);
  for (int64_t b = 0; b < step.whole.batch; ++b) {
    const size_t row = static_cast<size_t>(b);
    tokens.move({b, step.rows.held[row], step.rows.fresh[row], 0});
  }
  return tokens.bytes();
}

// The rows' caches, before or after the call: position p at p modulo P.
Step::Bytes take_cache(const Step& step, const std::vector<float>& values, bool after) {
  Tokens tokens(step.whole, values, step.capacity, kBehindHeld);
  for (int64_t b = 0; b < step.whole.batch; ++b) {
    const size_t row = static_cast<size_t>(b);
    const int64_t count = step.rows.held[row] + (after ? step.rows.fresh[row] : 0);
    for (int64_t p = 0; p < count; ++p) tokens.move({b, p, 1, p % step.capacity});
  }
  return tokens.bytes();
}

template <typename Params>
reformer_status call_kernel(Params& params, Step& step, int32_t workers,
                            reformer_status (*measure)(const Params*, uint64_t*),
                            reformer_status (*run)(const Params*)) {
  params.struct_size = sizeof(params);
  params.abi_version = REFORMER_ABI_VERSION;
  params.execution.num_workers = workers;
  params.execution.parallel_for = run_on_threads;
  params.execution.stream = step.stream;
  params.execution.error = step.error;
  params.execution.error_size = sizeof(step.error);
  uint64_t size = 0;
  if (const auto status = measure(&params, &size)) return status;
  step.workspace.assign(static_cast<size_t>(size), kPoison);
  params.execution.workspace = step.workspace.data();
  params.execution.workspace_size = size;
  return run(&params);
}

// Views of a step's T tensors.
class Views {
 public:
  explicit Views(Step& step) : step_(step) {}
  reformer_tensor fresh(Step::Bytes& bytes) const { return view_tokens(bytes, step_.rows.tokens); }
  reformer_tensor cache(Step::Bytes& bytes) const { return view_tokens(bytes, step_.capacity); }
  reformer_tensor hashed(std::vector<int32_t>& buckets, int64_t tokens) const {
    const Attention& call = step_.whole;
    return view(buckets.data(), REFORMER_INT32, {call.batch, call.heads, call.rounds, tokens});
  }

  // What both operators' parameters have.
  template <typename Params>
  void fill(Params& params) const {
    const Attention& call = step_.whole;
    params.num_heads = static_cast<int32_t>(call.heads);
    params.chunking = call.chunking;
    params.self_logit = call.own_logit();
    params.lengths = view(step_.rows.held.data(), REFORMER_INT32, {call.batch});
    params.new_lengths = view(step_.rows.fresh.data(), REFORMER_INT32, {call.batch});
    params.output = fresh(step_.output);
  }

 private:
  reformer_tensor view_tokens(Step::Bytes& bytes, int64_t tokens) const {
    const Attention& call = step_.whole;
    const size_t behind = static_cast<size_t>(call.offset) * element_size(call.dtype);
    return view(bytes.data() + behind, call.dtype,
                {call.batch, tokens, call.heads * call.head_size});
  }

  Step& step_;
};

// The first `length` tokens of a row as a call of their own.
Attention take_row(const Attention& whole, int64_t row, int64_t length) {
  Attention call = whole;
  call.batch = 1;
  call.length = length;
  const int64_t width = whole.heads * whole.head_size;
  const auto cut = [&](std::vector<float>& values) {
    if (values.empty()) return;
    const auto begin = values.begin() + row * whole.length * width;
    values = std::vector<float>(begin, begin + length * width);
  };
  cut(call.query);
  cut(call.key);
  cut(call.value);
  call.mask.assign(static_cast<size_t>(length), 1);
  call.buckets.clear();
  const int64_t lines = whole.lsh ? whole.heads * whole.rounds : 0;
  for (int64_t line = row * lines; line < (row + 1) * lines; ++line) {
    const auto begin = whole.buckets.begin() + line * whole.length;
    call.buckets.insert(call.buckets.end(), begin, begin + length);
  }
  return call;
}

}  // namespace

const StepFunctions kCpuStep = {
    reformer_cpu_lsh_attention_step_workspace, reformer_cpu_lsh_attention_step,
    reformer_cpu_local_attention_step_workspace, reformer_cpu_local_attention_step};

StepRows last_tokens(const Attention& whole) {
  const size_t batch = static_cast<size_t>(whole.batch);
  return {std::vector<int32_t>(batch, static_cast<int32_t>(whole.length - 1)),
          std::vector<int32_t>(batch, 1), 1};
}

Step::Step(const Attention& call, const StepRows& call_rows, int64_t room)
    : whole(call),
      rows(call_rows),
      capacity(call.lsh ? call.length + room
                        : (call.chunking.num_chunks_before + 1) * call.chunking.chunk_length) {
  const std::vector<float>& all_keys = call.lsh ? call.query : call.key;
  query = take_fresh(*this, call.query);
  key = take_fresh(*this, all_keys);
  value = take_fresh(*this, call.value);
  keys = take_cache(*this, all_keys, false);
  values = take_cache(*this, call.value, false);
  next_keys = take_cache(*this, all_keys, true);
  next_values = take_cache(*this, call.value, true);
  if (call.lsh) fill_buckets();
  output.assign(query.size(), kPoison);
}

void Step::fill_buckets() {
  const int64_t row_lines = whole.heads * whole.rounds;
  const size_t lines = static_cast<size_t>(whole.batch * row_lines);
  new_buckets.assign(lines * static_cast<size_t>(rows.tokens), -3);
  buckets.assign(lines * static_cast<size_t>(capacity), 0);
  next_buckets = buckets;
  for (int64_t line = 0; line < static_cast<int64_t>(lines); ++line) {
    const size_t row = static_cast<size_t>(line / row_lines);
    const auto from = whole.buckets.begin() + line * whole.length;
    std::copy_n(from, rows.held[row], buckets.begin() + line * capacity);
    std::copy_n(from, rows.held[row] + rows.fresh[row], next_buckets.begin() + line * capacity);
    std::copy_n(from + rows.held[row], rows.fresh[row], new_buckets.begin() + line * rows.tokens);
  }
}

reformer_status Step::run(const StepFunctions& functions, int32_t workers, bool in_place) {
  const Views views(*this);
  std::fill(output.begin(), output.end(), kPoison);
  present_keys.assign(keys.size(), kPoison);
  present_values.assign(values.size(), kPoison);
  present_buckets.assign(buckets.size(), -1);
  Bytes& new_keys = in_place ? keys : present_keys;
  Bytes& new_values = in_place ? values : present_values;
  if (!whole.lsh) {
    reformer_local_attention_step_params params{};
    views.fill(params);
    params.wraps = whole.wraps ? 1 : 0;
    params.query = views.fresh(query);
    params.key = views.fresh(key);
    params.value = views.fresh(value);
    params.past_key = views.cache(keys);
    params.past_value = views.cache(values);
    params.present_key = views.cache(new_keys);
    params.present_value = views.cache(new_values);
    return call_kernel(params, *this, workers, functions.measure_local, functions.run_local);
  }
  reformer_lsh_attention_step_params params{};
  views.fill(params);
  params.key_norm_epsilon = whole.epsilon;
  params.dense_threshold = whole.most_dense();
  params.query_key = views.fresh(query);
  params.value = views.fresh(value);
  params.new_buckets = views.hashed(new_buckets, rows.tokens);
  params.past_query_key = views.cache(keys);
  params.past_value = views.cache(values);
  params.past_buckets = views.hashed(buckets, capacity);
  params.present_query_key = views.cache(new_keys);
  params.present_value = views.cache(new_values);
  params.present_buckets = views.hashed(in_place ? buckets : present_buckets, capacity);
  return call_kernel(params, *this, workers, functions.measure_lsh, functions.run_lsh);
}

std::vector<float> Step::read_output() const {
  const size_t behind = static_cast<size_t>(whole.offset) * element_size(whole.dtype);
  return decode(whole.dtype, {output.begin() + static_cast<std::ptrdiff_t>(behind), output.end()});
}

std::vector<float> step_reference(const Step& step, int64_t row) {
  const size_t index = static_cast<size_t>(row);
  const int64_t fresh = step.rows.fresh[index];
  if (fresh == 0) return {};
  const Attention sequence = take_row(step.whole, row, step.rows.held[index] + fresh);
  const std::vector<float> attended = attention_reference(sequence);
  return {attended.end() - fresh * step.whole.heads * step.whole.head_size, attended.end()};
}

void check_refusal(const StepFunctions& functions, reformer_status expected, const char* message,
                   Step& step) {
  const Step::Bytes keys = step.keys;
  const reformer_status status = step.run(functions, 1, true);
  CHECK(status == expected, "status %d, expected %d (%s): %s", status, expected, message,
        step.error);
  CHECK(std::strstr(step.error, message) != nullptr, "message \"%s\" lacks \"%s\"", step.error,
        message);
  CHECK(step.keys == keys, "the cache was touched (%s)", message);
}

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

StepRows draw_rows(Random& random, const Attention& whole) {
  StepRows rows;
  rows.tokens = draw_int(random, 1, whole.length);
  for (int64_t b = 0; b < whole.batch; ++b) {
    const int64_t kind = draw_int(random, 0, 3);
    int64_t held = draw_int(random, 0, whole.length - 1);
    int64_t fresh = 1;
    if (kind == 0) fresh = 0;
    if (kind == 1) {
      held = 0;
      fresh = draw_int(random, 1, rows.tokens);
    }
    rows.held.push_back(static_cast<int32_t>(held));
    rows.fresh.push_back(static_cast<int32_t>(fresh));
  }
  return rows;
}

}  // namespace reformer::test
