#include "driver.h"

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

void check_output(const Node& node, IPluginV3& plugin, const Shapes& shapes) {
  nvinfer1::IPluginV3OneBuild& phase = *build_of(plugin);
  const auto count = static_cast<int32_t>(shapes.inputs.size());
  CHECK(phase.getNbOutputs() == 1, "%s", node.op.c_str());
  std::vector<nvinfer1::DataType> types;
  ExprBuilder builder;
  std::vector<nvinfer1::DimsExprs> exprs;
  for (const TensorInfo& input : shapes.inputs) {
    types.push_back(input.type);
    exprs.push_back(builder.shape(input.dims));
  }
  nvinfer1::DataType type{};
  CHECK(phase.getOutputDataTypes(&type, 1, types.data(), count) == 0, "%s", node.op.c_str());
  CHECK(type == shapes.output.type, "%s", node.op.c_str());
  nvinfer1::DimsExprs shape{};
  CHECK(phase.getOutputShapes(exprs.data(), count, nullptr, 0, &shape, 1, builder) == 0, "%s",
        node.op.c_str());
  CHECK(shape.nbDims == static_cast<int32_t>(shapes.output.dims.size()), "%s", node.op.c_str());
  for (size_t i = 0; i < shapes.output.dims.size(); ++i) {
    CHECK(shape.d[i]->getConstantValue() == shapes.output.dims[i], "%s dimension %zu",
          node.op.c_str(), i);
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
  const Shapes min = shapes_of(node, profile.min.batch, profile.min.length);
  const Shapes opt = shapes_of(node, profile.opt.batch, profile.opt.length);
  const Shapes max = shapes_of(node, profile.max.batch, profile.max.length);
  std::vector<DynamicPluginTensorDesc> descs;
  for (size_t i = 0; i < min.inputs.size(); ++i) {
    descs.push_back(describe_range(min.inputs[i], opt.inputs[i], max.inputs[i]));
  }
  descs.push_back(describe_range(min.output, opt.output, max.output));
  return descs;
}

Built build(const Node& node, const Profile& profile) {
  const PluginPointer created =
      create_plugin(node.op, attributes_of(node), nvinfer1::TensorRTPhase::kBUILD);
  CHECK(created != nullptr, "%s", node.op.c_str());
  if (created == nullptr) return {};
  check_names(node, *created);
  check_output(node, *created, shapes_of(node, profile.opt.batch, profile.opt.length));

  // The optimiser works on a clone; the layer's own plugin may go before it.
  PluginPointer layer(created->clone());
  const PluginPointer plugin(layer->clone());
  layer.reset();
  nvinfer1::IPluginV3OneBuild& phase = *build_of(*plugin);
  const std::vector<DynamicPluginTensorDesc> descs = describe_profile(node, profile);
  const auto inputs = static_cast<int32_t>(descs.size()) - 1;
  for (int32_t position = 0; position <= inputs; ++position) {
    CHECK(phase.supportsFormatCombination(position, descs.data(), inputs, 1), "%s position %d",
          node.op.c_str(), position);
  }
  CHECK(phase.configurePlugin(descs.data(), inputs, descs.data() + inputs, 1) == 0, "%s",
        node.op.c_str());
  CHECK(phase.getTimingCacheID() != nullptr, "%s", node.op.c_str());

  Built built;
  built.workspace_size = phase.getWorkspaceSize(descs.data(), inputs, descs.data() + inputs, 1);
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

bool Context::run(const Shapes& shapes, const std::vector<const void*>& inputs, void* output) {
  if (plugin_ == nullptr) return false;
  nvinfer1::IPluginV3OneRuntime& runtime = *runtime_of(*plugin_);
  const std::vector<PluginTensorDesc> in = describe(shapes.inputs);
  const std::vector<PluginTensorDesc> out = describe({shapes.output});
  if (runtime.onShapeChange(in.data(), static_cast<int32_t>(in.size()), out.data(), 1) != 0) {
    return false;
  }
  std::vector<DeviceMemory> operands;
  std::vector<const void*> addresses;
  for (size_t i = 0; i < inputs.size(); ++i) {
    operands.emplace_back(inputs[i], count_bytes(shapes.inputs[i]));
    addresses.push_back(operands.back().data());
  }
  const DeviceMemory result(count_bytes(shapes.output), '\x7F');
  void* const outputs[] = {result.data()};
  if (runtime.enqueue(in.data(), out.data(), addresses.data(), outputs, workspace_.data(),
                      stream_.get()) != 0) {
    return false;
  }
  stream_.finish(node_.op.c_str());
  result.read(output);
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
  CHECK(run(shapes_of(node_, call.batch, call.length), inputs, output.data()), "%s",
        node_.op.c_str());
  return decode(call.dtype, output);
}

std::vector<int32_t> Context::run(const Hash& call) {
  const std::vector<char> query_key = encode(call.dtype, call.query_key);
  std::vector<int32_t> buckets(
      static_cast<size_t>(call.batch * call.heads * call.rounds * call.length));
  CHECK(run(shapes_of(node_, call.batch, call.length),
            {address(query_key), address(call.rotations), address(call.mask)}, buckets.data()),
        "%s", node_.op.c_str());
  return buckets;
}

}  // namespace reformer::test
