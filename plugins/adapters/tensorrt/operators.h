// The three operators: their names, inputs and attributes, and how the parameters of their kernels
// are filled. Everything TensorRT asks is answered in plugin.h from that.
#pragma once

#include <memory>
#include <utility>

#include "adapters/tensorrt/plugin.h"
#include "reformer_kernels.h"

namespace reformer::tensorrt {

struct LSHBuckets {
  using Params = reformer_lsh_buckets_params;
  static constexpr auto kMeasure = reformer_cuda_lsh_buckets_workspace;
  static constexpr auto kRun = reformer_cuda_lsh_buckets;
  static const OperatorRules& rules();
  static Params read_attributes(const Attributes& attributes);
  static void set_tensors(const Tensors& tensors, Params* params);
  // An empty batch that fits the attributes: a call of it checks nothing but them.
  static Tensors empty_tensors(const Params& params);
  static nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs);
};

struct LSHAttention {
  using Params = reformer_lsh_attention_params;
  static constexpr auto kMeasure = reformer_cuda_lsh_attention_workspace;
  static constexpr auto kRun = reformer_cuda_lsh_attention;
  static const OperatorRules& rules();
  static Params read_attributes(const Attributes& attributes);
  static void set_tensors(const Tensors& tensors, Params* params);
  static Tensors empty_tensors(const Params& params);
  static nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs);
};

struct LocalAttention {
  using Params = reformer_local_attention_params;
  static constexpr auto kMeasure = reformer_cuda_local_attention_workspace;
  static constexpr auto kRun = reformer_cuda_local_attention;
  static const OperatorRules& rules();
  static Params read_attributes(const Attributes& attributes);
  static void set_tensors(const Tensors& tensors, Params* params);
  static Tensors empty_tensors(const Params& params);
  static nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs);
};

template <typename Operator>
class OperatorPlugin final : public Plugin {
 public:
  using Params = typename Operator::Params;

  // Throws when an attribute is out of range.
  explicit OperatorPlugin(std::shared_ptr<const Attributes> attributes)
      : Plugin(Operator::rules(), std::move(attributes)),
        params_(Operator::read_attributes(this->attributes())) {
    params_.struct_size = sizeof(Params);
    params_.abi_version = REFORMER_ABI_VERSION;
    measure_workspace(Operator::empty_tensors(params_));
  }

 private:
  Plugin* copy() const override { return new OperatorPlugin(*this); }
  nvinfer1::DimsExprs output_shape(const nvinfer1::DimsExprs* inputs) const override {
    return Operator::output_shape(inputs);
  }
  reformer_status measure(const Tensors& tensors, const reformer_execution& execution,
                          uint64_t* size) const override {
    const Params params = fill(tensors, execution);
    return Operator::kMeasure(&params, size);
  }
  reformer_status run(const Tensors& tensors, const reformer_execution& execution) const override {
    const Params params = fill(tensors, execution);
    return Operator::kRun(&params);
  }
  Params fill(const Tensors& tensors, const reformer_execution& execution) const {
    Params params = params_;
    params.execution = execution;
    Operator::set_tensors(tensors, &params);
    return params;
  }

  Params params_;
};

}  // namespace reformer::tensorrt
