#include "driver.h"

#include <algorithm>
#include <cstring>

#include "check.h"

namespace reformer::test {
namespace {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;

constexpr auto kLinear = nvinfer1::TensorFormat::kLINEAR;

DynamicPluginTensorDesc describe_range(const TensorInfo& min, const TensorInfo& opt,
                                       const TensorInfo& max) {
  DynamicPluginTensorDesc range{};
  nvinfer1::Dims dims = dims_from(min.dims);
  for (size_t i = 0; i < min.dims.size(); ++i) {
    if (min.dims[i] != max.dims[i]) dims.d[i] = -1;
  }
  range.desc = {dims, min.type, kLinear, 1.0f};
  range.min = dims_from(min.dims);
  range.opt = dims_from(opt.dims);
  range.max = dims_from(max.dims);
  return range;
}

void check_outputs(const Node& node, IPluginV3& plugin, const Shapes& shapes) {
  nvinfer1::IPluginV3OneBuild& phase = *build_of(plugin);
  const auto count = static_cast<int32_t>(shapes.inputs.size());
  const auto outputs = static_cast<int32_t>(shapes.outputs.size());
  CHECK(phase.getNbOutputs() == outputs, "%s", node.op.c_str());
  std::vector<nvinfer1::DataType> types;
  ExprBuilder builder;
  std::vector<nvinfer1::DimsExprs> exprs;
  for (const TensorInfo& input : shapes.inputs) {
    types.push_back(input.type);
    exprs.push_back(builder.shape(input.dims));
  }
  std::vector<nvinfer1::DataType> got_types(shapes.outputs.size());
  CHECK(phase.getOutputDataTypes(got_types.data(), outputs, types.data(), count) == 0, "%s",
        node.op.c_str());
  std::vector<nvinfer1::DimsExprs> got(shapes.outputs.size());
  CHECK(phase.getOutputShapes(exprs.data(), count, nullptr, 0, got.data(), outputs, builder) == 0,
        "%s", node.op.c_str());
  for (size_t i = 0; i < got.size(); ++i) {
    const std::vector<int64_t>& dims = shapes.outputs[i].dims;
    CHECK(got_types[i] == shapes.outputs[i].type, "%s output %zu", node.op.c_str(), i);
    CHECK(got[i].nbDims == static_cast<int32_t>(dims.size()), "%s output %zu", node.op.c_str(), i);
    for (size_t axis = 0; axis < dims.size(); ++axis) {
      CHECK(got[i].d[axis]->getConstantValue() == dims[axis], "%s output %zu dimension %zu",
            node.op.c_str(), i, axis);
    }
  }
}

void check_names(const Node& node, IPluginV3& plugin) {
  nvinfer1::IPluginV3OneCore& core = *core_of(plugin);
  CHECK(core.getPluginName() == node.op, "%s", core.getPluginName());
  CHECK(core.getPluginVersion() == std::string("1"), "%s", core.getPluginVersion());
  CHECK(core.getPluginNamespace() == std::string("reformer"), "%s", core.getPluginNamespace());
}

size_t count_bytes(const TensorInfo& tensor) {
  const bool half =
      tensor.type == nvinfer1::DataType::kHALF || tensor.type == nvinfer1::DataType::kBF16;
  size_t bytes = half ? 2 : 4;
  for (const int64_t dim : tensor.dims) bytes *= static_cast<size_t>(dim);
  return bytes;
}

// The device's memory of one call.
struct CallMemory {
  CallMemory(const Shapes& shapes, const std::vector<const void*>& values,
             const std::vector<InPlace>& shared) {
    inputs.reserve(values.size());
    results.reserve(shapes.outputs.size());
    for (size_t i = 0; i < values.size(); ++i) {
      sizes.push_back(count_bytes(shapes.inputs[i]));
      inputs.emplace_back(values[i], sizes[i]);
      addresses.push_back(inputs[i].data());
    }
    for (size_t i = 0; i < shapes.outputs.size(); ++i) {
      const auto is_output = [&](const InPlace& pair) {
        return static_cast<size_t>(pair.output) == i;
      };
      const auto pair = std::find_if(shared.begin(), shared.end(), is_output);
      if (pair == shared.end()) results.emplace_back(count_bytes(shapes.outputs[i]), '\x7F');
      outputs.push_back(pair == shared.end() ? &results.back()
                                             : &inputs[static_cast<size_t>(pair->input)]);
      targets.push_back(outputs[i]->data());
    }
  }

  bool is_shared(size_t input) const {
    return std::find(outputs.begin(), outputs.end(), &inputs[input]) != outputs.end();
  }
  bool holds(size_t input, const void* values) const {
    std::vector<char> bytes(sizes[input]);
    inputs[input].read(bytes.data());
    return bytes.empty() || std::memcmp(bytes.data(), values, bytes.size()) == 0;
  }

  std::vector<DeviceMemory> inputs;
  std::vector<DeviceMemory> results;  // of the outputs that have memory of their own
  std::vector<size_t> sizes;          // of the inputs, bytes
  std::vector<const DeviceMemory*> outputs;
  std::vector<const void*> addresses;
  std::vector<void*> targets;
};

template <typename T>
const void* address(const std::vector<T>& values) {
  return values.data();
}

}  // namespace

nvinfer1::IPluginV3OneCore* core_of(IPluginV3& plugin) {
  return static_cast<nvinfer1::IPluginV3OneCore*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kCORE));
}

nvinfer1::IPluginV3OneBuild* build_of(IPluginV3& plugin) {
  return static_cast<nvinfer1::IPluginV3OneBuild*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

nvinfer1::IPluginV3OneRuntime* runtime_of(IPluginV3& plugin) {
  return static_cast<nvinfer1::IPluginV3OneRuntime*>(
      plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

PluginPointer create_plugin(const std::string& op, Fields fields, nvinfer1::TensorRTPhase phase) {
  return PluginPointer(find_creator(op)->createPlugin("layer", fields.collection(), phase));
}

std::vector<PluginTensorDesc> describe(const std::vector<TensorInfo>& tensors) {
  std::vector<PluginTensorDesc> descs;
  for (const TensorInfo& tensor : tensors) {
    descs.push_back({dims_from(tensor.dims), tensor.type, kLinear, 1.0f});
  }
  return descs;
}

std::vector<DynamicPluginTensorDesc> describe_profile(const Node& node, const Profile& profile) {
  const Shapes min = shapes_of(node, profile.min);
  const Shapes opt = shapes_of(node, profile.opt);
  const Shapes max = shapes_of(node, profile.max);
  std::vector<DynamicPluginTensorDesc> descs;
  for (size_t i = 0; i < min.inputs.size(); ++i) {
    descs.push_back(describe_range(min.inputs[i], opt.inputs[i], max.inputs[i]));
  }
  for (size_t i = 0; i < min.outputs.size(); ++i) {
    descs.push_back(describe_range(min.outputs[i], opt.outputs[i], max.outputs[i]));
  }
  return descs;
}

Built build(const Node& node, const Profile& profile) {
  const PluginPointer created =
      create_plugin(node.op, attributes_of(node), nvinfer1::TensorRTPhase::kBUILD);
  CHECK(created != nullptr, "%s", node.op.c_str());
  if (created == nullptr) return {};
  check_names(node, *created);
  const Shapes shapes = shapes_of(node, profile.opt);
  check_outputs(node, *created, shapes);

  // The optimiser works on a clone; the layer's own plugin may go before it.
  PluginPointer layer(created->clone());
  const PluginPointer plugin(layer->clone());
  layer.reset();
  nvinfer1::IPluginV3OneBuild& phase = *build_of(*plugin);
  const std::vector<DynamicPluginTensorDesc> descs = describe_profile(node, profile);
  const auto inputs = static_cast<int32_t>(shapes.inputs.size());
  const auto outputs = static_cast<int32_t>(shapes.outputs.size());
  for (int32_t position = 0; position < inputs + outputs; ++position) {
    CHECK(phase.supportsFormatCombination(position, descs.data(), inputs, outputs),
          "%s position %d", node.op.c_str(), position);
  }
  CHECK(phase.configurePlugin(descs.data(), inputs, descs.data() + inputs, outputs) == 0, "%s",
        node.op.c_str());
  CHECK(phase.getTimingCacheID() != nullptr, "%s", node.op.c_str());

  Built built;
  built.workspace_size =
      phase.getWorkspaceSize(descs.data(), inputs, descs.data() + inputs, outputs);
  const auto* fields = runtime_of(*plugin)->getFieldsToSerialize();
  CHECK(fields != nullptr, "%s", node.op.c_str());
  built.fields = Fields(*fields);
  return built;
}

Context::Context(const Node& node, const Built& built)
    : node_(node), workspace_(built.workspace_size, '\x5A') {
  const PluginPointer engine =
      create_plugin(node.op, built.fields, nvinfer1::TensorRTPhase::kRUNTIME);
  if (engine == nullptr) return;
  ResourceContext resources;
  plugin_.reset(runtime_of(*engine)->attachToContext(&resources));
}

bool Context::run(const Shapes& shapes, const std::vector<const void*>& inputs,
                  const std::vector<void*>& outputs, const std::vector<InPlace>& shared) {
  if (plugin_ == nullptr) return false;
  nvinfer1::IPluginV3OneRuntime& runtime = *runtime_of(*plugin_);
  const std::vector<PluginTensorDesc> in = describe(shapes.inputs);
  const std::vector<PluginTensorDesc> out = describe(shapes.outputs);
  if (runtime.onShapeChange(in.data(), static_cast<int32_t>(in.size()), out.data(),
                            static_cast<int32_t>(out.size())) != 0) {
    return false;
  }
  const CallMemory memory(shapes, inputs, shared);
  if (runtime.enqueue(in.data(), out.data(), memory.addresses.data(), memory.targets.data(),
                      workspace_.data(), stream_.get()) != 0) {
    return false;
  }
  stream_.finish(node_.op.c_str());
  for (size_t i = 0; i < outputs.size(); ++i) memory.outputs[i]->read(outputs[i]);
  for (size_t i = 0; i < inputs.size(); ++i) {
    CHECK(memory.is_shared(i) || memory.holds(i, inputs[i]), "%s changed input %zu",
          node_.op.c_str(), i);
  }
  return true;
}

std::vector<float> Context::run(const Attention& call) {
  const std::vector<char> query = encode(call.dtype, call.query);
  const std::vector<char> key = encode(call.dtype, call.key);
  const std::vector<char> value = encode(call.dtype, call.value);
  std::vector<char> output(value.size());
  const std::vector<const void*> inputs =
      call.lsh ? std::vector<const void*>{address(query), address(value), address(call.buckets),
                                          address(call.mask)}
               : std::vector<const void*>{address(query), address(key), address(value),
                                          address(call.mask)};
  CHECK(run(shapes_of(node_, {call.batch, call.length}), inputs, {output.data()}), "%s",
        node_.op.c_str());
  return decode(call.dtype, output);
}

std::vector<int32_t> Context::run(const Hash& call) {
  const std::vector<char> query_key = encode(call.dtype, call.query_key);
  std::vector<int32_t> buckets(
      static_cast<size_t>(call.batch * call.heads * call.rounds * call.length));
  CHECK(run(shapes_of(node_, {call.batch, call.length}),
            {address(query_key), address(call.rotations), address(call.mask)}, {buckets.data()}),
        "%s", node_.op.c_str());
  return buckets;
}

}  // namespace reformer::test
