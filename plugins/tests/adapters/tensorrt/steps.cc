#include "steps.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "check.h"
#include "compare.h"

namespace reformer::test {
namespace {

std::vector<char> bytes_of(const std::vector<int32_t>& values) {
  std::vector<char> bytes(values.size() * sizeof(int32_t));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// As long as the longest row, nothing masked.
Attention draw_whole(Random& random, const Node& node, const StepRows& rows) {
  int32_t longest = 1;
  for (size_t b = 0; b < rows.held.size(); ++b) {
    longest = std::max(longest, rows.held[b] + rows.fresh[b]);
  }
  const auto batch = static_cast<int64_t>(rows.held.size());
  Attention whole = draw_attention_call(random, node, batch, longest);
  std::fill(whole.mask.begin(), whole.mask.end(), 1);
  return whole;
}

// Which input each present cache continues.
std::vector<InPlace> shared_caches(const Node& node) {
  if (node.op == "LSHAttentionStep") return {{3, 1}, {4, 2}, {5, 3}};
  return {{3, 1}, {4, 2}};
}

// The largest error of the output; CHECKs the caches.
double run_step_call(Context& context, const Node& node, const StepCall& call, bool in_place) {
  const std::vector<float> expected = call.output();
  const std::vector<std::vector<char>> presents = call.presents();
  std::vector<std::vector<char>> outputs = {std::vector<char>(call.step.query.size(), '\x7F')};
  for (const auto& present : presents) outputs.emplace_back(present.size());
  std::vector<void*> targets;
  for (auto& output : outputs) targets.push_back(output.data());
  const auto shared = in_place ? shared_caches(node) : std::vector<InPlace>();
  CHECK(context.run(call.shapes, call.inputs(), targets, shared), "%s", node.op.c_str());
  for (size_t i = 0; i < presents.size(); ++i) {
    CHECK(outputs[i + 1] == presents[i], "%s: cache %zu%s", node.op.c_str(), i,
          in_place ? " in place" : "");
  }
  return measure_error(call.whole, decode(node.dtype, outputs[0]), expected);
}

std::vector<Node> make_nodes() {
  std::vector<Node> nodes(4);
  nodes[0].chunking = nodes[3].chunking = {16, 1, 0, 32, 16, 1};
  nodes[3].self_logit = -5e4f;
  nodes[3].dense_threshold = 40;
  nodes[3].wraps = false;
  nodes[1].heads = 1;
  nodes[1].head_size = 64;
  nodes[1].rounds = 1;
  nodes[1].chunking = {8, 0, 0, 8, 0, 1};
  nodes[2].head_size = 7;
  nodes[2].chunking = {5, 2, 0, 10, 5, 1};
  return nodes;
}

// A prompt; a prompt beside a step and a row that rests; steps; a step; rows that all rest; a short
// prompt. Lengths are dense, padded and whole chunks, and unlike in a batch.
struct Case {
  StepRows rows;
  int64_t capacity;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {{{0}, {9}, 9}, 80},  {{{0, 11, 40}, {37, 1, 0}, 37}, 60}, {{{0, 15, 63}, {1, 1, 1}, 1}, 64},
      {{{33}, {1}, 1}, 80}, {{{7, 0}, {0, 0}, 1}, 70},           {{{0, 0}, {0, 20}, 25}, 64},
  };
  return all;
}

double check_node(Random& random, const Node& node) {
  Context context(node, build(node, {{1, 1, 60}, {1, 1, 64}, {3, 37, 80}}));
  double worst = 0;
  for (const Case& each : cases()) {
    const StepCall call(random, node, each.rows, each.capacity);
    for (const bool in_place : {false, true}) {
      const double error = run_step_call(context, node, call, in_place);
      CHECK(error <= tolerance_of(node.dtype), "%s dtype %d, %zu rows of %lld: error %g",
            node.op.c_str(), node.dtype, each.rows.held.size(),
            static_cast<long long>(each.rows.tokens), error);
      worst = std::max(worst, error);
    }
  }
  return worst;
}

}  // namespace

StepCall::StepCall(Random& random, const Node& node, const StepRows& rows, int64_t capacity)
    : whole(draw_whole(random, node, rows)),
      step(whole, rows, capacity - whole.length),
      shapes(shapes_of(node, {whole.batch, rows.tokens, capacity})) {}

std::vector<const void*> StepCall::inputs() const {
  const void* lengths[] = {step.rows.held.data(), step.rows.fresh.data()};
  if (!whole.lsh) {
    return {step.query.data(),  step.key.data(), step.value.data(), step.keys.data(),
            step.values.data(), lengths[0],      lengths[1]};
  }
  return {step.query.data(), step.value.data(),  step.new_buckets.data(),
          step.keys.data(),  step.values.data(), step.buckets.data(),
          lengths[0],        lengths[1]};
}

std::vector<std::vector<char>> StepCall::presents() const {
  if (!whole.lsh) return {step.next_keys, step.next_values};
  return {step.next_keys, step.next_values, bytes_of(step.next_buckets)};
}

std::vector<float> StepCall::output() const {
  const int64_t width = whole.heads * whole.head_size;
  std::vector<float> expected(static_cast<size_t>(whole.batch * step.rows.tokens * width));
  for (int64_t b = 0; b < whole.batch; ++b) {
    const std::vector<float> rows = step_reference(step, b);
    std::copy(rows.begin(), rows.end(), expected.begin() + b * step.rows.tokens * width);
  }
  return expected;
}

void check_steps(Random& random) {
  for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
    for (Node node : make_nodes()) {
      node.dtype = dtype;
      for (const char* op : {"LSHAttentionStep", "LocalAttentionStep"}) {
        node.op = op;
        const double worst = check_node(random, node);
        std::printf("%s dtype %d head size %lld: largest error %.2g\n", op, dtype,
                    static_cast<long long>(node.head_size), worst);
      }
    }
  }
}

}  // namespace reformer::test
