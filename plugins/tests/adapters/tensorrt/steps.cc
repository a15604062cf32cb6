#include "steps.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "check.h"
#include "compare.h"
#include "reference.h"

namespace reformer::test {
namespace {

constexpr float kGarbage = 8;

// The caches and the new tokens of a call, as plain numbers: [rows, tokens, heads * head size], and
// [rows, heads, rounds, tokens].
struct Tokens {
  Tokens(const Node& node, int64_t count, int64_t rows, float value)
      : width(node.heads * node.head_size),
        lines(node.heads * node.rounds),
        tokens(count),
        keys(static_cast<size_t>(rows * count * width), value),
        values(keys),
        buckets(static_cast<size_t>(rows * count * lines), 3) {}

  // Token `from` of the sequence `whole` becomes token `to` of row `row`.
  void set(int64_t row, int64_t to, const Attention& whole, int64_t from) {
    const auto& all_keys = whole.lsh ? whole.query : whole.key;
    const auto place = (row * tokens + to) * width;
    std::copy_n(all_keys.begin() + from * width, width, keys.begin() + place);
    std::copy_n(whole.value.begin() + from * width, width, values.begin() + place);
    for (int64_t line = 0; whole.lsh && line < lines; ++line) {
      buckets[static_cast<size_t>((row * lines + line) * tokens + to)] =
          whole.buckets[static_cast<size_t>(line * whole.length + from)];
    }
  }

  int64_t width, lines, tokens;
  std::vector<float> keys, values;
  std::vector<int32_t> buckets;
};

std::vector<char> bytes_of(const std::vector<int32_t>& values) {
  std::vector<char> bytes(values.size() * sizeof(int32_t));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<std::vector<char>> caches_of(const Node& node, const Tokens& tokens) {
  std::vector<std::vector<char>> caches = {encode(node.dtype, tokens.keys),
                                           encode(node.dtype, tokens.values)};
  if (node.op == "LSHAttentionStep") caches.push_back(bytes_of(tokens.buckets));
  return caches;
}

// Which input each present cache continues.
std::vector<InPlace> shared_caches(const Node& node) {
  if (node.op == "LSHAttentionStep") return {{3, 1}, {4, 2}, {5, 3}};
  return {{3, 1}, {4, 2}};
}

std::vector<std::vector<char>> inputs_of(const Node& node, const std::vector<float>& query,
                                         const Tokens& fresh, const Tokens& past,
                                         const std::vector<Row>& rows) {
  std::vector<std::vector<char>> inputs = caches_of(node, fresh);
  if (node.op == "LocalAttentionStep") inputs.insert(inputs.begin(), encode(node.dtype, query));
  for (auto& cache : caches_of(node, past)) inputs.push_back(std::move(cache));
  std::vector<int32_t> held, new_lengths;
  for (const Row& row : rows) {
    held.push_back(row.held);
    new_lengths.push_back(row.fresh);
  }
  inputs.push_back(bytes_of(held));
  inputs.push_back(bytes_of(new_lengths));
  return inputs;
}

double tolerance_of(int32_t dtype) {
  if (dtype == REFORMER_FLOAT32) return 1e-5;
  return dtype == REFORMER_FLOAT16 ? 2e-3 : 1e-2;
}

std::vector<Node> make_nodes() {
  std::vector<Node> nodes(3);
  nodes[0].chunking = {16, 1, 0, 32, 16, 1};
  nodes[1].heads = 1;
  nodes[1].head_size = 64;
  nodes[1].rounds = 1;
  nodes[1].chunking = {8, 0, 0, 8, 0, 1};
  nodes[2].head_size = 7;
  nodes[2].chunking = {5, 2, 0, 10, 5, 1};
  return nodes;
}

// A prompt; a prompt beside a step and a row that rests; steps; rows that all rest; a short prompt.
// Lengths are dense, padded and whole chunks, and unlike in a batch.
struct Case {
  std::vector<Row> rows;
  int64_t length, capacity;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {{{0, 9}}, 9, 80},
      {{{0, 37}, {11, 1}, {40, 0}}, 37, 60},
      {{{0, 1}, {15, 1}, {63, 1}}, 1, 64},
      {{{33, 1}}, 1, 80},
      {{{7, 0}, {0, 0}}, 1, 70},
      {{{0, 0}, {0, 20}}, 25, 64},
  };
  return all;
}

}  // namespace

StepCall draw_step_call(Random& random, const Node& node, const std::vector<Row>& rows,
                        int64_t length, int64_t capacity) {
  const auto batch = static_cast<int64_t>(rows.size());
  const Size size{batch, length, capacity};
  const int64_t slots = cache_capacity(node, size);
  const bool ring = node.op == "LocalAttentionStep";
  Tokens fresh(node, length, batch, kGarbage);
  Tokens past(node, slots, batch, kGarbage);
  std::vector<float> query(fresh.keys.size(), kGarbage);
  StepCall call{shapes_of(node, size), rows, {}, {}, std::vector<float>(query.size())};
  std::vector<Attention> wholes;
  const auto slot = [&](int64_t position) { return ring ? position % slots : position; };
  for (int64_t b = 0; b < batch; ++b) {
    const auto [held, count] = rows[static_cast<size_t>(b)];
    wholes.push_back(draw_attention_call(random, node, 1, held + count));
    Attention& whole = wholes.back();
    std::fill(whole.mask.begin(), whole.mask.end(), 1);
    for (int64_t p = 0; p < held; ++p) past.set(b, slot(p), whole, p);
    for (int64_t i = 0; i < count; ++i) fresh.set(b, i, whole, held + i);
    if (held + count == 0) continue;
    const std::vector<float> attended = attention_reference(whole);
    const auto copy = [&](const std::vector<float>& from, std::vector<float>& to) {
      std::copy_n(from.begin() + held * fresh.width, count * fresh.width,
                  to.begin() + b * length * fresh.width);
    };
    copy(whole.query, query);
    copy(attended, call.output);
  }
  call.inputs = inputs_of(node, query, fresh, past, rows);
  for (int64_t b = 0; b < batch; ++b) {
    const auto [held, count] = rows[static_cast<size_t>(b)];
    for (int64_t p = held; p < held + count; ++p) {
      past.set(b, slot(p), wholes[static_cast<size_t>(b)], p);
    }
  }
  call.presents = caches_of(node, past);
  return call;
}

double check_step_call(Context& context, const Node& node, const StepCall& call, double tolerance) {
  std::vector<const void*> inputs;
  for (const auto& input : call.inputs) inputs.push_back(input.data());
  double worst = 0;
  for (const bool in_place : {false, true}) {
    std::vector<std::vector<char>> outputs = {
        std::vector<char>(encode(node.dtype, call.output).size(), '\x7F')};
    for (const auto& present : call.presents) outputs.emplace_back(present.size());
    std::vector<void*> targets;
    for (auto& output : outputs) targets.push_back(output.data());
    const auto shared = in_place ? shared_caches(node) : std::vector<InPlace>();
    CHECK(context.run(call.shapes, inputs, targets, shared), "%s", node.op.c_str());
    Attention kind;
    kind.dtype = node.dtype;
    const std::vector<float> got = decode(node.dtype, outputs[0]);
    worst = std::max(worst, measure_error(kind, got, call.output));
    for (size_t i = 0; i < call.presents.size(); ++i) {
      CHECK(outputs[i + 1] == call.presents[i], "%s: cache %zu%s", node.op.c_str(), i,
            in_place ? " in place" : "");
    }
  }
  CHECK(worst <= tolerance, "%s dtype %d, %zu rows of %lld: error %g", node.op.c_str(), node.dtype,
        call.rows.size(), static_cast<long long>(call.shapes.inputs[0].dims[1]), worst);
  return worst;
}

void check_steps(Random& random) {
  for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
    for (Node node : make_nodes()) {
      node.dtype = dtype;
      for (const char* op : {"LSHAttentionStep", "LocalAttentionStep"}) {
        node.op = op;
        Context context(node, build(node, {{1, 1, 60}, {1, 1, 64}, {3, 37, 80}}));
        double worst = 0;
        for (const Case& each : cases()) {
          const StepCall call = draw_step_call(random, node, each.rows, each.length, each.capacity);
          worst = std::max(worst, check_step_call(context, node, call, tolerance_of(dtype)));
        }
        std::printf("%s dtype %d head size %lld: largest error %.2g\n", op, dtype,
                    static_cast<long long>(node.head_size), worst);
      }
    }
  }
}

}  // namespace reformer::test
