// The plugins' numbers through TensorRT's interface, against the written-down reference: every
// operator, three types, several shapes one after another on one context. On the emulated device
// (test_tensorrt_plugins) and on a GPU (test_tensorrt_plugins_gpu).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "check.h"
#include "compare.h"
#include "driver.h"
#include "reference.h"
#include "steps.h"

namespace reformer::test {
namespace {

// Dense, one chunk after virtual padding, several chunks, and back to fewer.
constexpr Size kSizes[] = {{1, 9}, {2, 80}, {1, 37}, {2, 1}};
constexpr Profile kProfile = {{1, 1}, {1, 37}, {2, 80}};

constexpr int kNoDevice = 2;  // exit status

// A bidirectional model's, a causal one's of one round, one whose rows no vector fits, and those of
// another Reformer: dense up to four chunks, no chunks beyond the ends, as many buckets as there
// are rotations.
std::vector<Node> make_nodes() {
  std::vector<Node> nodes(4);
  nodes[1].heads = 1;
  nodes[1].head_size = 64;
  nodes[1].rounds = 1;
  nodes[1].factors = {8};
  nodes[1].chunking = {64, 1, 0, 64, 64, 1};
  nodes[2].head_size = 7;
  nodes[2].factors = {2, 4, 2};
  nodes[2].chunking = {5, 2, 3, 10, 5, 1};
  nodes[3].factors = {};
  nodes[3].chunking = {10, 1, 0, 20, 0, 1};
  nodes[3].self_logit = -5e4f;
  nodes[3].dense_threshold = 40;
  nodes[3].wraps = false;
  return nodes;
}

double check_attention(Random& random, const Node& node) {
  Context context(node, build(node, kProfile));
  double worst = 0;
  for (const Size& size : kSizes) {
    const Attention call = draw_attention_call(random, node, size.batch, size.length);
    const double error = measure_error(call, context.run(call), attention_reference(call));
    CHECK(error <= tolerance_of(node.dtype), "%s dtype %d L %lld: error %g", node.op.c_str(),
          node.dtype, static_cast<long long>(size.length), error);
    worst = std::max(worst, error);
  }
  return worst;
}

void check_hash(Random& random, const Node& node) {
  Context context(node, build(node, kProfile));
  for (const Size& size : kSizes) {
    const Hash call = draw_hash_call(random, node, size.batch, size.length);
    const std::vector<int32_t> got = context.run(call);
    for_each_bucket(call, [&](int64_t b, int64_t h, int64_t r, int64_t token, size_t i) {
      const int32_t expected = bucket_reference(call, b, h, r, token);
      CHECK(got[i] == expected, "dtype %d, L %lld, element %zu: %d, expected %d", node.dtype,
            static_cast<long long>(size.length), i, got[i], expected);
    });
  }
}

void check_serialised_fields() {
  Node node;
  node.op = "LSHAttention";
  const Built built = build(node, kProfile);
  const std::vector<std::string> expected = {
      "abi_version",      "library_version",   "workspace_size",   "num_heads",
      "chunk_length",     "num_chunks_before", "num_chunks_after", "is_causal",
      "padding_multiple", "padding_threshold", "key_norm_epsilon", "self_logit",
      "dense_threshold"};
  CHECK(built.fields.names() == expected, "%zu fields", built.fields.names().size());
  // An engine loaded and written again stays what it was.
  const PluginPointer again =
      create_plugin(node.op, built.fields, nvinfer1::TensorRTPhase::kRUNTIME);
  CHECK(again != nullptr, "not created from its own fields");
  if (again == nullptr) return;
  const Fields rewritten(*runtime_of(*again)->getFieldsToSerialize());
  CHECK(rewritten.names() == expected, "%zu fields", rewritten.names().size());
  for (const std::string& name : expected) {
    CHECK(rewritten.bytes(name) == built.fields.bytes(name), "%s changed", name.c_str());
  }
}

// An alias would be an error wherever its preview feature is off (docs/running-engines.md).
void check_build_interface() {
  for (const char* op : {"LSHAttentionStep", "LocalAttentionStep"}) {
    Node node;
    node.op = op;
    node.chunking = {16, 1, 0, 32, 16, 1};
    const PluginPointer plugin =
        create_plugin(op, attributes_of(node), nvinfer1::TensorRTPhase::kBUILD);
    const nvinfer1::InterfaceInfo info = build_of(*plugin)->getInterfaceInfo();
    CHECK(info.major == 1, "%s: %s %d", op, info.kind, info.major);
  }
}

void check_timing_cache_ids() {
  const auto id_of = [](const Node& node) {
    const PluginPointer plugin =
        create_plugin(node.op, attributes_of(node), nvinfer1::TensorRTPhase::kBUILD);
    return std::string(build_of(*plugin)->getTimingCacheID());
  };
  Node node;
  node.op = "LSHAttention";
  Node other = node;
  CHECK(id_of(node) == id_of(other), "equal nodes, different ids");
  other.epsilon = std::nextafterf(node.epsilon, 1.0f);
  CHECK(id_of(node) != id_of(other), "key_norm_epsilon is not in the id");
  other = node;
  other.dense_threshold = 17;
  CHECK(id_of(node) != id_of(other), "dense_threshold is not in the id");
  other = node;
  other.chunking.is_causal = 1 - node.chunking.is_causal;
  CHECK(id_of(node) != id_of(other), "is_causal is not in the id");
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  if (const char* problem = find_device_problem()) {
    std::fprintf(stderr, "test_plugins: got no device (%s), expected a GPU; run it on one\n",
                 problem);
    return kNoDevice;
  }
  RecordingLogger logger;
  setLoggerFinder(&logger);
  Random random(3);
  for (const int32_t dtype : {REFORMER_FLOAT32, REFORMER_FLOAT16, REFORMER_BFLOAT16}) {
    for (Node node : make_nodes()) {
      node.dtype = dtype;
      node.op = "LSHBuckets";
      check_hash(random, node);
      for (const char* op : {"LSHAttention", "LocalAttention"}) {
        node.op = op;
        const double error = check_attention(random, node);
        std::printf("%s dtype %d head size %lld: largest error %.2g\n", op, dtype,
                    static_cast<long long>(node.head_size), error);
      }
    }
  }
  check_steps(random);
  check_serialised_fields();
  check_build_interface();
  check_timing_cache_ids();
  const std::string messages = logger.take();
  CHECK(messages.empty(), "logged: %s", messages.c_str());
  return FINISH_TEST();
}
