// TensorRT's descriptions of tensors, as the kernels' C interface has them.
#pragma once

#include <cstdint>

#include "adapters/tensorrt/plugin.h"
#include "adapters/tensorrt/tensorrt_api.h"

namespace reformer::tensorrt {

// Whether T can be of this type.
bool is_supported(nvinfer1::DataType type);

// The type of a tensor where T is `element_type`.
nvinfer1::DataType resolve_type(const TensorRule& rule, nvinfer1::DataType element_type);

// Throws std::invalid_argument when a tensor has another rank than the operator's contract says.
void check_rank(const char* op, const TensorRule& rule, int32_t rank);

// Tensors without data. The rules give the counts.
Tensors view_tensors(const OperatorRules& rules, const nvinfer1::PluginTensorDesc* inputs,
                     const nvinfer1::PluginTensorDesc* outputs);

// One end of an optimisation profile.
enum class Extreme { kMin, kOpt, kMax };
Tensors view_profile(const OperatorRules& rules, const nvinfer1::DynamicPluginTensorDesc* inputs,
                     const nvinfer1::DynamicPluginTensorDesc* outputs, Extreme extreme);

}  // namespace reformer::tensorrt
