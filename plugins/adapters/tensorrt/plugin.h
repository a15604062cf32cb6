// What the plugins share: TensorRT's plugin interface, mapped onto one call of the kernels'
// C interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "adapters/operators.h"
#include "adapters/tensorrt/attributes.h"
#include "adapters/tensorrt/tensorrt_api.h"
#include "reformer_kernels.h"

namespace reformer::tensorrt {

// An operator's description without the type of its parameters.
struct OperatorRules {
  const char* name;
  std::vector<TensorRule> inputs;
  std::vector<TensorRule> outputs;
  std::vector<AttributeRule> attributes;
};

// The tensors of one call. Data pointers are null where only shapes are known.
struct Tensors {
  std::vector<reformer_tensor> inputs;
  std::vector<reformer_tensor> outputs;
};

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(const OperatorRules& rules, std::shared_ptr<const Attributes> attributes)
      : rules_(rules),
        attributes_(std::move(attributes)),
        workspace_size_(attributes_->engine_workspace()) {}
  ~Plugin() override = default;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* clone() noexcept final;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept final { return rules_.name; }
  const char* getPluginVersion() const noexcept final { return kOperatorVersion; }
  const char* getPluginNamespace() const noexcept final { return kDomain; }

  // IPluginV3OneBuild
  // An output that may take an input's memory (operators.h, kInPlace) is not declared as its alias:
  // docs/running-engines.md says why. Where one buffer is bound as both, the kernel sees it.
  int32_t getNbOutputs() const noexcept final {
    return static_cast<int32_t>(rules_.outputs.size());
  }
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t num_outputs,
                             const nvinfer1::DataType* inputs,
                             int32_t num_inputs) const noexcept final;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs,
                          const nvinfer1::DimsExprs* shape_inputs, int32_t num_shape_inputs,
                          nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept final;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 int32_t num_inputs, int32_t num_outputs) noexcept final;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs,
                          int32_t num_outputs) noexcept final;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs,
                          int32_t num_outputs) const noexcept final;
  const char* getTimingCacheID() noexcept final { return attributes_->timing_cache_id(); }

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t num_inputs,
                        const nvinfer1::PluginTensorDesc* outputs,
                        int32_t num_outputs) noexcept final;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                  const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept final;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

 protected:
  // Not the serialised fields: they point into their own plugin.
  Plugin(const Plugin& other)
      : rules_(other.rules_),
        attributes_(other.attributes_),
        workspace_size_(other.workspace_size_) {}
  Plugin& operator=(const Plugin&) = delete;

  const Attributes& attributes() const { return *attributes_; }
  // Bytes of workspace a call with these tensors needs; throws when they do not fit the operator.
  uint64_t measure_workspace(const Tensors& tensors) const;

 private:
  virtual Plugin* copy() const = 0;
  virtual nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs,
                                           size_t index) const = 0;
  virtual reformer_status measure(const Tensors& tensors, const reformer_execution& execution,
                                  uint64_t* size) const = 0;
  virtual reformer_status run(const Tensors& tensors,
                              const reformer_execution& execution) const = 0;

  void check_counts(int32_t num_inputs, int32_t num_outputs) const;
  uint64_t measure_profile(const nvinfer1::DynamicPluginTensorDesc* inputs,
                           const nvinfer1::DynamicPluginTensorDesc* outputs) const;

  const OperatorRules& rules_;
  std::shared_ptr<const Attributes> attributes_;
  // What every call may use, in bytes: the most that a profile needs. TensorRT does not say how
  // much it gives, so the number travels in the engine.
  std::optional<int64_t> workspace_size_;
  std::vector<nvinfer1::PluginField> serialized_fields_;
  nvinfer1::PluginFieldCollection serialized_{};
};

}  // namespace reformer::tensorrt
