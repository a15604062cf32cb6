// What a plugin refuses: a status, and one line that says what is wrong. Never an exception, never
// a crash.
#include <functional>
#include <string>

#include "check.h"
#include "control.h"
#include "driver.h"
#include "refusals.h"
#include "steps.h"

namespace reformer::test {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorRTPhase;

constexpr Profile kProfile = {{1, 1}, {1, 37}, {2, 80}};

// Of LSHBucketsStep nobody on the host looks at the lengths.
bool reads_lengths(const Node& node) { return is_step(node) && node.op != "LSHBucketsStep"; }

PluginPointer create(const Node& node) {
  return create_plugin(node.op, attributes_of(node), TensorRTPhase::kBUILD);
}

void check_counts(const std::string& op) {
  const Node node = make_node(op);
  const PluginPointer plugin = create(node);
  nvinfer1::IPluginV3OneBuild& phase = *build_of(*plugin);
  nvinfer1::IPluginV3OneRuntime& runtime = *runtime_of(*plugin);
  const auto descs = describe_profile(node, kProfile);
  const Shapes shapes = shapes_of(node, {1, 9});
  const auto in = describe(shapes.inputs);
  const auto outputs = static_cast<int32_t>(shapes.outputs.size());
  const auto count = static_cast<int32_t>(in.size());
  const std::string word = "got " + std::to_string(count - 1) + " inputs";
  check_refusal("configure", op,
                phase.configurePlugin(descs.data(), count - 1, &descs.back(), outputs) != 0, word);
  check_refusal("workspace", op,
                phase.getWorkspaceSize(descs.data(), count - 1, &descs.back(), outputs) == 0, word);
  check_refusal("format", op, !phase.supportsFormatCombination(0, descs.data(), count - 1, outputs),
                word);
  check_refusal("shapes", op, runtime.onShapeChange(in.data(), count - 1, in.data(), outputs) != 0,
                word);
  const std::vector<DataType> types(in.size(), DataType::kFLOAT);
  std::vector<DataType> got(shapes.outputs.size() + 1);
  check_refusal("types", op,
                phase.getOutputDataTypes(got.data(), outputs, types.data(), count - 1) != 0, word);
  check_refusal("another output", op,
                phase.getOutputDataTypes(got.data(), outputs + 1, types.data(), count) != 0,
                "and " + std::to_string(outputs + 1) + " outputs");
  CHECK(plugin->getCapabilityInterface(static_cast<nvinfer1::PluginCapabilityType>(9)) == nullptr,
        "a capability that does not exist");
}

void check_formats(const std::string& op) {
  const Node node = make_node(op);
  const PluginPointer plugin = create(node);
  nvinfer1::IPluginV3OneBuild& phase = *build_of(*plugin);
  const auto good = describe_profile(node, kProfile);
  const Shapes shapes = shapes_of(node, {1, 9});
  const auto inputs = static_cast<int32_t>(shapes.inputs.size());
  const auto outputs = static_cast<int32_t>(shapes.outputs.size());
  const auto supports = [&](const auto& descs, size_t position) {
    return phase.supportsFormatCombination(static_cast<int32_t>(position), descs.data(), inputs,
                                           outputs);
  };
  for (size_t position = 0; position < good.size(); ++position) {
    auto descs = good;
    descs[position].desc.format = nvinfer1::TensorFormat::kCHW32;
    CHECK(!supports(descs, position), "%s: kCHW32 at %zu", op.c_str(), position);
    for (const DataType type : {DataType::kINT8, DataType::kBOOL, DataType::kINT64}) {
      descs = good;
      descs[position].desc.type = type;
      CHECK(!supports(descs, position), "%s: type %d at %zu", op.c_str(), static_cast<int>(type),
            position);
    }
    // Another T than the first input's.
    descs = good;
    descs[position].desc.type = DataType::kHALF;
    CHECK(supports(descs, position) == (position == 0), "%s: half at %zu", op.c_str(), position);
  }
  CHECK(logger.take().empty(), "asking for a format is no error");
}

// One tensor of an otherwise right call is changed.
void refuse_shape(const Node& node, const char* what, const std::function<void(Shapes*)>& change,
                  const std::string& word) {
  Shapes shapes = shapes_of(node, {1, 37});
  change(&shapes);
  const PluginPointer plugin = create(node);
  const auto in = describe(shapes.inputs);
  const auto out = describe(shapes.outputs);
  const auto refused = runtime_of(*plugin)->onShapeChange(
      in.data(), static_cast<int32_t>(in.size()), out.data(), static_cast<int32_t>(out.size()));
  check_refusal(what, node.op, refused != 0, word);
  const std::vector<const void*> inputs(in.size(), &shapes);
  const std::vector<void*> outputs(out.size(), &shapes);
  check_refusal(what, node.op,
                runtime_of(*plugin)->enqueue(in.data(), out.data(), inputs.data(), outputs.data(),
                                             nullptr, nullptr) != 0,
                word);
}

void check_shapes(const std::string& op) {
  Node node = make_node(op);
  const std::string first = op.rfind("Local", 0) == 0 ? "query" : "query_key";
  const std::string last = is_step(node) ? "new_lengths" : "attention_mask";
  refuse_shape(
      node, "rank 2", [](Shapes* s) { s->inputs[0].dims.pop_back(); },
      first + " has rank 2, expected 3");
  refuse_shape(
      node, "rank 8", [](Shapes* s) { s->inputs[0].dims.assign(8, 1); },
      first + " has rank 8, expected 3");
  refuse_shape(node, "an int32 T", [](Shapes* s) { s->inputs[0].type = DataType::kINT32; }, first);
  refuse_shape(node, "an int8 T", [](Shapes* s) { s->inputs[0].type = DataType::kINT8; }, first);
  refuse_shape(
      node, "a longer last input", [](Shapes* s) { s->inputs.back().dims.back() += 1; }, last);
  refuse_shape(
      node, "a last input of floats", [](Shapes* s) { s->inputs.back().type = DataType::kFLOAT; },
      last);
  for (size_t i = 0; i < shapes_of(node, {1, 37}).outputs.size(); ++i) {
    refuse_shape(node, "another output", [&](Shapes* s) { s->outputs[i].dims.back() += 1; }, "");
  }
  refuse_shape(node, "a negative length", [](Shapes* s) { s->inputs[0].dims[1] = -1; }, first);
  node.head_size = 257;
  refuse_shape(node, "head size 257", [](Shapes*) {}, "head size is 257");
  node.head_size = 16;
  if (op == "LSHBuckets" || is_step(node)) return;
  node.chunking.padding_multiple = 20;
  refuse_shape(node, "no whole chunks", [](Shapes*) {}, "is not a multiple of chunk_length");
}

void check_ranks_at_build(const std::string& op) {
  const Node node = make_node(op);
  const PluginPointer plugin = create(node);
  ExprBuilder builder;
  std::vector<nvinfer1::DimsExprs> exprs;
  const Shapes shapes = shapes_of(node, {1, 37});
  for (const TensorInfo& input : shapes.inputs) exprs.push_back(builder.shape(input.dims));
  exprs.back() = builder.shape({1, 1, 1});
  std::vector<nvinfer1::DimsExprs> got(shapes.outputs.size());
  const auto refused =
      build_of(*plugin)->getOutputShapes(exprs.data(), static_cast<int32_t>(exprs.size()), nullptr,
                                         0, got.data(), static_cast<int32_t>(got.size()), builder);
  check_refusal("a last input of rank 3", op, refused != 0,
                is_step(node) ? "new_lengths has rank 3, expected 1"
                              : "attention_mask has rank 3, expected 2");
}

void check_profile(const std::string& op) {
  Node node = make_node(op);
  node.head_size = 300;
  const auto descs = describe_profile(node, kProfile);
  const Shapes shapes = shapes_of(node, {1, 37});
  const auto inputs = static_cast<int32_t>(shapes.inputs.size());
  const auto refused = build_of(*create(node))
                           ->configurePlugin(descs.data(), inputs, descs.data() + inputs,
                                             static_cast<int32_t>(shapes.outputs.size()));
  check_refusal("head size 300", op, refused != 0, "head size is 300");
}

// Runs the operator on zeros; its workspace and fields may have been tampered with.
bool run_zeros(const Node& node, const Built& built, int64_t length) {
  const Shapes shapes = shapes_of(node, {1, length});
  std::vector<std::vector<char>> data;
  const auto zeros = [](const TensorInfo& tensor) {
    size_t bytes = 4;
    for (const int64_t dim : tensor.dims) bytes *= static_cast<size_t>(dim);
    return std::vector<char>(bytes);
  };
  std::vector<const void*> inputs;
  for (const TensorInfo& input : shapes.inputs) {
    data.push_back(zeros(input));
    inputs.push_back(data.back().data());
  }
  std::vector<std::vector<char>> results;
  std::vector<void*> outputs;
  for (const TensorInfo& output : shapes.outputs) {
    results.push_back(zeros(output));
    outputs.push_back(results.back().data());
  }
  Context context(node, built);
  return context.run(shapes, inputs, outputs);
}

void check_workspace(const std::string& op) {
  const Node node = make_node(op);
  const Built small = build(node, {{1, 1}, {1, 37}, {1, 37}});
  CHECK(run_zeros(node, small, 37), "%s: the longest of the profile", op.c_str());
  logger.take();
  if (build(node, {{1, 80}, {1, 80}, {1, 80}}).workspace_size > small.workspace_size) {
    // TensorRT itself refuses lengths outside the profile; should it not, the plugin does.
    check_refusal("longer than the profile", op, !run_zeros(node, small, 80), "workspace has");
  }
  if (small.workspace_size == 0) return;
  Built tampered = small;
  tampered.fields.set("workspace_size", static_cast<int64_t>(small.workspace_size) - 1);
  check_refusal("one byte too few", op, !run_zeros(node, tampered, 37), "workspace has");
  tampered.fields.set("workspace_size", static_cast<int64_t>(small.workspace_size));
  tampered.workspace_size = 0;
  check_refusal("no workspace", op, !run_zeros(node, tampered, 37), "workspace is null");
}

// Two new tokens behind five: no step, which a builder that measures time does not care for.
void check_lengths(const std::string& op) {
  const Node node = make_node(op);
  const Built built = build(node, kProfile);
  Random random(5);
  const StepCall call(random, node, {{0}, {2}, 2}, 100);
  const int32_t held = 5;
  std::vector<const void*> inputs = call.inputs();
  inputs[inputs.size() - 2] = &held;
  std::vector<std::vector<char>> results = {std::vector<char>(call.step.query.size())};
  for (const auto& present : call.presents()) results.emplace_back(present.size());
  std::vector<void*> outputs;
  for (auto& result : results) outputs.push_back(result.data());
  Context context(node, built);
  check_refusal("no step", op, !context.run(call.shapes, inputs, outputs),
                "holds 5 tokens and gets 2");

  const auto in = describe(call.shapes.inputs);
  const auto out = describe(call.shapes.outputs);
  std::vector<char> workspace(built.workspace_size);
  const PluginPointer plugin = create(node);
  CHECK(runtime_of(*plugin)->enqueue(in.data(), out.data(), inputs.data(), outputs.data(),
                                     workspace.data(), nullptr) == 0,
        "%s in a builder", op.c_str());
  CHECK(logger.take().empty(), "%s in a builder", op.c_str());
}

void check_refused_launch(const std::string& op) {
  const Node node = make_node(op);
  const Built built = build(node, kProfile);
  cuda::emulation::refuse_launch_after(0);
  check_refusal("a busy device", op, !run_zeros(node, built, 37),
                reads_lengths(node) ? "could not be read back" : "the device refused");
  if (is_step(node)) {
    cuda::emulation::refuse_launch_after(0);
    check_refusal("a busy device at a step", op, !run_zeros(node, built, 1), "the device refused");
  }
  CHECK(run_zeros(node, built, 37), "%s: the next call", op.c_str());
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  record_messages();
  for (const char* op : kOps) {
    check_counts(op);
    check_formats(op);
    check_shapes(op);
    check_ranks_at_build(op);
    check_profile(op);
    check_workspace(op);
    check_refused_launch(op);
    if (reads_lengths(make_node(op))) check_lengths(op);
  }
  return FINISH_TEST();
}
