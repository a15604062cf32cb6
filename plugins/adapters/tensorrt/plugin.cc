#include "adapters/tensorrt/plugin.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "adapters/tensorrt/logger.h"
#include "adapters/tensorrt/tensors.h"

namespace reformer::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = 1;
constexpr size_t kErrorSize = 512;

void check_status(reformer_status status, const char* error) {
  if (status == REFORMER_OK) return;
  throw std::runtime_error(error[0] != '\0' ? error : reformer_status_text(status));
}

reformer_execution make_execution(char* error) {
  reformer_execution execution{};
  execution.num_workers = 1;
  execution.error = error;
  execution.error_size = kErrorSize;
  return execution;
}

}  // namespace

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return catch_errors<nvinfer1::IPluginV3*>(nullptr, [&] { return copy(); });
}

nvinfer1::IPluginV3* Plugin::attachToContext(
    nvinfer1::IPluginResourceContext* /*context*/) noexcept {
  return clone();
}

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t num_outputs, const DataType* inputs,
                                   int32_t num_inputs) const noexcept {
  return catch_errors(kFailure, [&] {
    check_counts(num_inputs, num_outputs);
    for (size_t i = 0; i < rules_.outputs.size(); ++i) {
      outputs[i] = resolve_type(rules_.outputs[i], inputs[0]);
    }
    return kSuccess;
  });
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs,
                                const nvinfer1::DimsExprs* /*shape_inputs*/,
                                int32_t /*num_shape_inputs*/, nvinfer1::DimsExprs* outputs,
                                int32_t num_outputs, nvinfer1::IExprBuilder& /*builder*/) noexcept {
  return catch_errors(kFailure, [&] {
    check_counts(num_inputs, num_outputs);
    for (int32_t i = 0; i < num_inputs; ++i) {
      check_rank(rules_.name, rules_.inputs[static_cast<size_t>(i)], inputs[i].nbDims);
    }
    for (size_t i = 0; i < rules_.outputs.size(); ++i) outputs[i] = output_shape(inputs, i);
    return kSuccess;
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                       int32_t num_inputs, int32_t num_outputs) noexcept {
  return catch_errors(false, [&] {
    check_counts(num_inputs, num_outputs);
    const auto index = static_cast<size_t>(position);
    const size_t inputs = rules_.inputs.size();
    const TensorRule& rule = index < inputs ? rules_.inputs[index] : rules_.outputs[index - inputs];
    const PluginTensorDesc& tensor = tensors[position].desc;
    return tensor.format == nvinfer1::TensorFormat::kLINEAR && is_supported(tensors[0].desc.type) &&
           tensor.type == resolve_type(rule, tensors[0].desc.type);
  });
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                const DynamicPluginTensorDesc* outputs,
                                int32_t num_outputs) noexcept {
  return catch_errors(kFailure, [&] {
    check_counts(num_inputs, num_outputs);
    const auto needed = static_cast<int64_t>(measure_profile(inputs, outputs));
    workspace_size_ = std::max(workspace_size_.value_or(0), needed);
    return kSuccess;
  });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                const DynamicPluginTensorDesc* outputs,
                                int32_t num_outputs) const noexcept {
  return catch_errors<size_t>(0, [&] {
    check_counts(num_inputs, num_outputs);
    return static_cast<size_t>(measure_profile(inputs, outputs));
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, int32_t num_inputs,
                              const PluginTensorDesc* outputs, int32_t num_outputs) noexcept {
  return catch_errors(kFailure, [&] {
    check_counts(num_inputs, num_outputs);
    measure_workspace(view_tensors(rules_, inputs, outputs));
    return kSuccess;
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                        const void* const* inputs, void* const* outputs, void* workspace,
                        cudaStream_t stream) noexcept {
  return catch_errors(kFailure, [&] {
    Tensors tensors = view_tensors(rules_, input_descs, output_descs);
    // Kernels only read their inputs, but for what an output is bound to as well.
    for (size_t i = 0; i < tensors.inputs.size(); ++i) {
      tensors.inputs[i].data = const_cast<void*>(inputs[i]);
    }
    for (size_t i = 0; i < tensors.outputs.size(); ++i) tensors.outputs[i].data = outputs[i];
    char error[kErrorSize] = "";
    reformer_execution execution = make_execution(error);
    execution.workspace = workspace;
    execution.workspace_size = workspace_size_.has_value() ? static_cast<uint64_t>(*workspace_size_)
                                                           : measure_workspace(tensors);
    execution.stream = stream;
    const reformer_status status = run(tensors, execution);
    // The builder times plugins on whatever its memory holds, which need not be lengths.
    if (status == REFORMER_ERROR_LENGTHS && !attributes_->from_engine()) return kSuccess;
    check_status(status, error);
    return kSuccess;
  });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return catch_errors<const nvinfer1::PluginFieldCollection*>(nullptr, [&] {
    serialized_fields_ = attributes_->serialize(workspace_size_ ? &*workspace_size_ : nullptr);
    serialized_ = {static_cast<int32_t>(serialized_fields_.size()), serialized_fields_.data()};
    return &serialized_;
  });
}

void Plugin::check_counts(int32_t num_inputs, int32_t num_outputs) const {
  const auto expected_inputs = static_cast<int32_t>(rules_.inputs.size());
  const auto expected_outputs = static_cast<int32_t>(rules_.outputs.size());
  if (num_inputs == expected_inputs && num_outputs == expected_outputs) return;
  throw std::invalid_argument(std::string(rules_.name) + ": got " + std::to_string(num_inputs) +
                              " inputs and " + std::to_string(num_outputs) + " outputs, expected " +
                              std::to_string(expected_inputs) + " and " +
                              std::to_string(expected_outputs));
}

uint64_t Plugin::measure_workspace(const Tensors& tensors) const {
  char error[kErrorSize] = "";
  uint64_t size = 0;
  check_status(measure(tensors, make_execution(error), &size), error);
  return size;
}

uint64_t Plugin::measure_profile(const DynamicPluginTensorDesc* inputs,
                                 const DynamicPluginTensorDesc* outputs) const {
  uint64_t largest = 0;
  for (const Extreme extreme : {Extreme::kMin, Extreme::kOpt, Extreme::kMax}) {
    const Tensors tensors = view_profile(rules_, inputs, outputs, extreme);
    largest = std::max(largest, measure_workspace(tensors));
  }
  return largest;
}

}  // namespace reformer::tensorrt
