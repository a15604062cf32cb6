#include "adapters/tensorrt/tensors.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace reformer::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

int32_t dtype_from_tensorrt(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return REFORMER_FLOAT32;
    case DataType::kHALF:
      return REFORMER_FLOAT16;
    case DataType::kBF16:
      return REFORMER_BFLOAT16;
    case DataType::kINT32:
      return REFORMER_INT32;
    default:
      return -1;  // the kernels' own check words the error
  }
}

reformer_tensor view_tensor(const char* op, const TensorRule& rule, const Dims& dims,
                            DataType type) {
  check_rank(op, rule, dims.nbDims);
  reformer_tensor tensor{};
  tensor.dtype = dtype_from_tensorrt(type);
  tensor.rank = dims.nbDims;
  std::copy_n(dims.d, dims.nbDims, tensor.dims);
  return tensor;
}

const Dims& dims_at(const nvinfer1::DynamicPluginTensorDesc& tensor, Extreme extreme) {
  switch (extreme) {
    case Extreme::kMin:
      return tensor.min;
    case Extreme::kOpt:
      return tensor.opt;
    case Extreme::kMax:
      break;
  }
  return tensor.max;
}

}  // namespace

bool is_supported(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

DataType resolve_type(const TensorRule& rule, DataType element_type) {
  switch (rule.element) {
    case Element::kFloat32:
      return DataType::kFLOAT;
    case Element::kInt32:
      return DataType::kINT32;
    case Element::kInt8:
      return DataType::kINT8;
    case Element::kT:
      break;
  }
  return element_type;
}

void check_rank(const char* op, const TensorRule& rule, int32_t rank) {
  if (rank == rule.rank()) return;
  throw std::invalid_argument(std::string(op) + ": " + rule.name + " has rank " +
                              std::to_string(rank) + ", expected " + std::to_string(rule.rank()));
}

Tensors view_tensors(const OperatorRules& rules, const nvinfer1::PluginTensorDesc* inputs,
                     const nvinfer1::PluginTensorDesc* outputs) {
  const auto view = [&](const std::vector<TensorRule>& listed,
                        const nvinfer1::PluginTensorDesc* descs) {
    std::vector<reformer_tensor> tensors;
    for (size_t i = 0; i < listed.size(); ++i) {
      tensors.push_back(view_tensor(rules.name, listed[i], descs[i].dims, descs[i].type));
    }
    return tensors;
  };
  return {view(rules.inputs, inputs), view(rules.outputs, outputs)};
}

Tensors view_profile(const OperatorRules& rules, const nvinfer1::DynamicPluginTensorDesc* inputs,
                     const nvinfer1::DynamicPluginTensorDesc* outputs, Extreme extreme) {
  const auto view = [&](const std::vector<TensorRule>& listed,
                        const nvinfer1::DynamicPluginTensorDesc* descs) {
    std::vector<reformer_tensor> tensors;
    for (size_t i = 0; i < listed.size(); ++i) {
      tensors.push_back(
          view_tensor(rules.name, listed[i], dims_at(descs[i], extreme), descs[i].desc.type));
    }
    return tensors;
  };
  return {view(rules.inputs, inputs), view(rules.outputs, outputs)};
}

}  // namespace reformer::tensorrt
