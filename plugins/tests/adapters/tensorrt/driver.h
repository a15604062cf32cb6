// Takes a plugin through its life as TensorRT does: built, serialised, created again from the
// engine's fields, attached to a context, run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "adapters/operators.h"
#include "adapters/tensorrt/tensorrt_api.h"
#include "device.h"
#include "fields.h"
#include "host.h"
#include "node.h"

namespace reformer::test {

using PluginPointer = std::unique_ptr<nvinfer1::IPluginV3>;

struct Profile {
  Size min, opt, max;
};

// What an engine keeps of a plugin.
struct Built {
  Fields fields;
  size_t workspace_size = 0;
};

nvinfer1::IPluginV3OneCore* core_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneBuild* build_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneRuntime* runtime_of(nvinfer1::IPluginV3& plugin);

PluginPointer create_plugin(const std::string& op, Fields fields, nvinfer1::TensorRTPhase phase);

std::vector<nvinfer1::PluginTensorDesc> describe(const std::vector<TensorInfo>& tensors);
// Inputs, then outputs.
std::vector<nvinfer1::DynamicPluginTensorDesc> describe_profile(const Node& node,
                                                                const Profile& profile);

// The build phase, with CHECKs of every answer.
Built build(const Node& node, const Profile& profile);

// An execution context of an engine: its own plugin, and exactly the workspace that was asked for.
class Context {
 public:
  explicit Context(const Node& node, const Built& built);

  // On operands of the host, which are copied to the device and back. An output that is named in
  // `shared` has its input's memory; all other inputs are CHECKed to be what they were. False when
  // there is no plugin, or it refused the shapes or the call.
  bool run(const Shapes& shapes, const std::vector<const void*>& inputs,
           const std::vector<void*>& outputs, const std::vector<InPlace>& shared = {});
  std::vector<float> run(const Attention& call);
  std::vector<int32_t> run(const Hash& call);

 private:
  Node node_;
  PluginPointer plugin_;
  DeviceStream stream_;
  DeviceMemory workspace_;
};

}  // namespace reformer::test
