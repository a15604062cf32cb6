// The operators as plugins: each hands its parameters to the C interface for CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "adapters/operators.h"
#include "adapters/tensorrt/plugin.h"
#include "reformer_kernels.h"

namespace reformer::tensorrt {

template <typename Operator>
const OperatorRules& rules_of() {
  static const OperatorRules rules = [] {
    static_assert(find_element_input<Operator>() == 0);
    OperatorRules made{Operator::kName, {}, {}, {}};
    for (const auto& input : Operator::kInputs) made.inputs.push_back(input.rule);
    for (const auto& output : Operator::kOutputs) made.outputs.push_back(output.rule);
    read_parameters<Operator>(AttributeLister{made.attributes});
    return made;
  }();
  return rules;
}

inline int64_t rotation_size(const reformer_lsh_buckets_params& params) {
  if (params.num_factors == 0) return 1;  // any
  int64_t size = 0;
  for (int32_t i = 0; i < params.num_factors; ++i) size += params.num_buckets[i] / 2;
  return size;
}
inline int64_t rotation_size(const reformer_lsh_buckets_step_params& /*params*/) {
  return 1;  // any
}
template <typename Params>
int64_t rotation_size(const Params& /*params*/) {
  return 0;
}

// P of the local caches is an attribute's; others may be empty.
inline int64_t cache_capacity(const reformer_local_attention_step_params& params) {
  return (params.chunking.num_chunks_before + 1) * params.chunking.chunk_length;
}
template <typename Params>
int64_t cache_capacity(const Params& /*params*/) {
  return 0;
}

// An empty batch that fits the attributes: a call of it checks nothing but them.
template <typename Operator>
Tensors empty_tensors(const typename Operator::Params& params) {
  const auto size_of = [&](char letter) -> int64_t {
    switch (letter) {
      case 'B':
      case 'L':
      case 'Q':
        return 0;
      case 'P':
        return cache_capacity(params);
      case 'D':
      case 'K':
      case 'R':
        return 1;
      case 'S':
        return rotation_size(params);
      default:  // H, and W of heads that have one element
        return params.num_heads;
    }
  };
  Tensors tensors;
  for (const auto& input : Operator::kInputs) {
    const TensorRule& rule = input.rule;
    reformer_tensor tensor{nullptr, dtype_of(rule, REFORMER_FLOAT32), rule.rank(), {}};
    std::transform(rule.shape.begin(), rule.shape.end(), tensor.dims, size_of);
    tensors.inputs.push_back(tensor);
  }
  for (size_t i = 0; i < std::size(Operator::kOutputs); ++i) {
    tensors.outputs.push_back(describe_output<Operator>(tensors.inputs.data(), i));
  }
  return tensors;
}

template <typename Operator>
class OperatorPlugin final : public Plugin {
 public:
  using Params = typename Operator::Params;

  // Throws when an attribute is out of range.
  explicit OperatorPlugin(std::shared_ptr<const Attributes> attributes)
      : Plugin(rules_of<Operator>(), std::move(attributes)),
        params_(read_parameters<Operator>(this->attributes())) {
    measure_workspace(empty_tensors<Operator>(params_));
  }

 private:
  Plugin* copy() const override { return new OperatorPlugin(*this); }
  nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs, size_t index) const override {
    const TensorRule& rule = Operator::kOutputs[index].rule;
    nvinfer1::DimsExprs shape{rule.rank(), {}};
    for (size_t axis = 0; axis < rule.shape.size(); ++axis) {
      const Source source = find_source<Operator>(index, axis);
      shape.d[axis] = inputs[source.input].d[source.axis];
    }
    return shape;
  }
  reformer_status measure(const Tensors& tensors, const reformer_execution& execution,
                          uint64_t* size) const override {
    const Params params = fill(tensors, execution);
    return Operator::kCUDA.measure(&params, size);
  }
  reformer_status run(const Tensors& tensors, const reformer_execution& execution) const override {
    const Params params = fill(tensors, execution);
    return Operator::kCUDA.run(&params);
  }
  Params fill(const Tensors& tensors, const reformer_execution& execution) const {
    Params params = params_;
    params.execution = execution;
    set_tensors<Operator>(tensors.inputs.data(), tensors.outputs.data(), params);
    return params;
  }

  Params params_;
};

}  // namespace reformer::tensorrt
