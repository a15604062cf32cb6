// What both adapters say of the operators, once: names, tensors, attributes, and how a call's
// parameters are filled from them. Knows no framework; docs/operators.md says what they compute.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "reformer_kernels.h"

namespace reformer {

// The ONNX domain, and the namespace and version of the TensorRT plugins.
constexpr const char* kDomain = "reformer";
constexpr const char* kOperatorVersion = "1";

// T is float32, float16 or bfloat16, the same in all of a call's tensors.
enum class Element { kT, kFloat32, kInt32, kInt8 };

// A shape has one letter a dimension: B batch, L length, W heads * head size, H heads, D head size,
// R num_hashes, S rotation size, N hidden size, Q new tokens, P tokens that a cache has room for,
// K words of records, G heads or 1, C twice N. Of Linear M is all dimensions but the last, K what
// is added up, N outputs.
struct TensorRule {
  const char* name;
  Element element;
  std::string_view shape;
  int32_t rank() const { return static_cast<int32_t>(shape.size()); }
};

// A tensor, and its place in the parameters.
template <typename Params>
struct TensorField {
  TensorRule rule;
  reformer_tensor Params::* field;
};

// An output that may take an input's memory.
struct InPlace {
  int input;
  int output;
};

// An operator of the C interface on one backend.
template <typename Params>
struct Functions {
  reformer_status (*measure)(const Params*, uint64_t*);
  reformer_status (*run)(const Params*);
};

// A reader has integer(name, Int&), integers(name, int32_t (&)[N], int32_t& count) and
// number(name, float&); and integer_or, number_or, which leave the value as it is where a node
// does not have the attribute: nodes of older files.
template <typename Reader>
void read_chunking(Reader& reader, reformer_chunking& chunking) {
  reader.integer("chunk_length", chunking.chunk_length);
  reader.integer("num_chunks_before", chunking.num_chunks_before);
  reader.integer("num_chunks_after", chunking.num_chunks_after);
  reader.integer("is_causal", chunking.is_causal);
  reader.integer("padding_multiple", chunking.padding_multiple);
  reader.integer("padding_threshold", chunking.padding_threshold);
}

template <typename Reader, typename Params>
void read_lsh_attributes(Reader& reader, Params& params) {
  reader.integer("num_heads", params.num_heads);
  read_chunking(reader, params.chunking);
  reader.number("key_norm_epsilon", params.key_norm_epsilon);
  params.self_logit = -1e5f;
  params.dense_threshold = params.chunking.chunk_length;
  reader.number_or("self_logit", params.self_logit);
  reader.integer_or("dense_threshold", params.dense_threshold);
}

template <typename Reader, typename Params>
void read_local_attributes(Reader& reader, Params& params) {
  reader.integer("num_heads", params.num_heads);
  read_chunking(reader, params.chunking);
  params.self_logit = std::numeric_limits<float>::infinity();
  params.wraps = 1;
  reader.number_or("self_logit", params.self_logit);
  reader.integer_or("wraps", params.wraps);
}

struct LSHBuckets {
  using Params = reformer_lsh_buckets_params;
  static constexpr const char* kName = "LSHBuckets";
  static constexpr Functions<Params> kCPU = {reformer_cpu_lsh_buckets_workspace,
                                             reformer_cpu_lsh_buckets};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_lsh_buckets_workspace,
                                              reformer_cuda_lsh_buckets};
  static constexpr TensorField<Params> kInputs[] = {
      {{"query_key", Element::kT, "BLW"}, &Params::query_key},
      {{"rotations", Element::kFloat32, "HDRS"}, &Params::rotations},
      {{"attention_mask", Element::kInt32, "BL"}, &Params::attention_mask}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"buckets", Element::kInt32, "BHRL"}, &Params::buckets}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    reader.integer("num_heads", params.num_heads);
    reader.integers("num_buckets", params.num_buckets, params.num_factors);
  }
};

struct LSHAttention {
  using Params = reformer_lsh_attention_params;
  static constexpr const char* kName = "LSHAttention";
  static constexpr Functions<Params> kCPU = {reformer_cpu_lsh_attention_workspace,
                                             reformer_cpu_lsh_attention};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_lsh_attention_workspace,
                                              reformer_cuda_lsh_attention};
  static constexpr TensorField<Params> kInputs[] = {
      {{"query_key", Element::kT, "BLW"}, &Params::query_key},
      {{"value", Element::kT, "BLW"}, &Params::value},
      {{"buckets", Element::kInt32, "BHRL"}, &Params::buckets},
      {{"attention_mask", Element::kInt32, "BL"}, &Params::attention_mask}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"output", Element::kT, "BLW"}, &Params::output}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    read_lsh_attributes(reader, params);
  }
};

struct LocalAttention {
  using Params = reformer_local_attention_params;
  static constexpr const char* kName = "LocalAttention";
  static constexpr Functions<Params> kCPU = {reformer_cpu_local_attention_workspace,
                                             reformer_cpu_local_attention};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_local_attention_workspace,
                                              reformer_cuda_local_attention};
  static constexpr TensorField<Params> kInputs[] = {
      {{"query", Element::kT, "BLW"}, &Params::query},
      {{"key", Element::kT, "BLW"}, &Params::key},
      {{"value", Element::kT, "BLW"}, &Params::value},
      {{"attention_mask", Element::kInt32, "BL"}, &Params::attention_mask}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"output", Element::kT, "BLW"}, &Params::output}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    read_local_attributes(reader, params);
  }
};

struct ResidualNorm {
  using Params = reformer_residual_norm_params;
  static constexpr const char* kName = "ResidualNorm";
  static constexpr Functions<Params> kCPU = {reformer_cpu_residual_norm_workspace,
                                             reformer_cpu_residual_norm};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_residual_norm_workspace,
                                              reformer_cuda_residual_norm};
  static constexpr TensorField<Params> kInputs[] = {
      {{"stream", Element::kFloat32, "BLN"}, &Params::stream},
      {{"update", Element::kT, "BLN"}, &Params::update},
      {{"scale", Element::kFloat32, "N"}, &Params::scale},
      {{"bias", Element::kFloat32, "N"}, &Params::bias}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"stream_out", Element::kFloat32, "BLN"}, &Params::stream_out},
      {{"normed", Element::kT, "BLN"}, &Params::normed}};
  static constexpr InPlace kInPlace[] = {{0, 0}, {1, 1}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    reader.number("epsilon", params.epsilon);
  }
};

struct FinalNorm {
  using Params = reformer_residual_norm_params;
  static constexpr const char* kName = "FinalNorm";
  static constexpr Functions<Params> kCPU = ResidualNorm::kCPU;
  static constexpr Functions<Params> kCUDA = ResidualNorm::kCUDA;
  static constexpr TensorField<Params> kInputs[] = {
      {{"other_stream", Element::kFloat32, "BLN"}, &Params::other_stream},
      {{"stream", Element::kFloat32, "BLN"}, &Params::stream},
      {{"update", Element::kT, "BLN"}, &Params::update},
      {{"scale", Element::kFloat32, "C"}, &Params::scale},
      {{"bias", Element::kFloat32, "C"}, &Params::bias}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"normed", Element::kT, "BLC"}, &Params::normed}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    reader.number("epsilon", params.epsilon);
  }
};

struct LSHAttentionStep {
  using Params = reformer_lsh_attention_step_params;
  static constexpr const char* kName = "LSHAttentionStep";
  static constexpr Functions<Params> kCPU = {reformer_cpu_lsh_attention_step_workspace,
                                             reformer_cpu_lsh_attention_step};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_lsh_attention_step_workspace,
                                              reformer_cuda_lsh_attention_step};
  static constexpr TensorField<Params> kInputs[] = {
      {{"query_key", Element::kT, "BQW"}, &Params::query_key},
      {{"value", Element::kT, "BQW"}, &Params::value},
      {{"new_buckets", Element::kInt32, "BHRQ"}, &Params::new_buckets},
      {{"past_query_key", Element::kT, "BPW"}, &Params::past_query_key},
      {{"past_value", Element::kT, "BPW"}, &Params::past_value},
      {{"past_buckets", Element::kInt32, "BHRP"}, &Params::past_buckets},
      {{"lengths", Element::kInt32, "B"}, &Params::lengths},
      {{"new_lengths", Element::kInt32, "B"}, &Params::new_lengths}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"output", Element::kT, "BQW"}, &Params::output},
      {{"present_query_key", Element::kT, "BPW"}, &Params::present_query_key},
      {{"present_value", Element::kT, "BPW"}, &Params::present_value},
      {{"present_buckets", Element::kInt32, "BHRP"}, &Params::present_buckets}};
  static constexpr InPlace kInPlace[] = {{3, 1}, {4, 2}, {5, 3}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    read_lsh_attributes(reader, params);
  }
};

struct LocalAttentionStep {
  using Params = reformer_local_attention_step_params;
  static constexpr const char* kName = "LocalAttentionStep";
  static constexpr Functions<Params> kCPU = {reformer_cpu_local_attention_step_workspace,
                                             reformer_cpu_local_attention_step};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_local_attention_step_workspace,
                                              reformer_cuda_local_attention_step};
  static constexpr TensorField<Params> kInputs[] = {
      {{"query", Element::kT, "BQW"}, &Params::query},
      {{"key", Element::kT, "BQW"}, &Params::key},
      {{"value", Element::kT, "BQW"}, &Params::value},
      {{"past_key", Element::kT, "BPW"}, &Params::past_key},
      {{"past_value", Element::kT, "BPW"}, &Params::past_value},
      {{"lengths", Element::kInt32, "B"}, &Params::lengths},
      {{"new_lengths", Element::kInt32, "B"}, &Params::new_lengths}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"output", Element::kT, "BQW"}, &Params::output},
      {{"present_key", Element::kT, "BPW"}, &Params::present_key},
      {{"present_value", Element::kT, "BPW"}, &Params::present_value}};
  static constexpr InPlace kInPlace[] = {{3, 1}, {4, 2}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    read_local_attributes(reader, params);
  }
};

struct LSHBucketsStep {
  using Params = reformer_lsh_buckets_step_params;
  static constexpr const char* kName = "LSHBucketsStep";
  static constexpr Functions<Params> kCPU = {reformer_cpu_lsh_buckets_step_workspace,
                                             reformer_cpu_lsh_buckets_step};
  static constexpr Functions<Params> kCUDA = {reformer_cuda_lsh_buckets_step_workspace,
                                              reformer_cuda_lsh_buckets_step};
  static constexpr TensorField<Params> kInputs[] = {
      {{"query_key", Element::kT, "BQW"}, &Params::query_key},
      {{"rotations", Element::kFloat32, "GDRS"}, &Params::rotations},
      {{"past_records", Element::kInt32, "BHKP"}, &Params::past_records},
      {{"lengths", Element::kInt32, "B"}, &Params::lengths},
      {{"new_lengths", Element::kInt32, "B"}, &Params::new_lengths}};
  static constexpr TensorField<Params> kOutputs[] = {
      {{"new_buckets", Element::kInt32, "BHRQ"}, &Params::new_buckets},
      {{"buckets", Element::kInt32, "BHRP"}, &Params::buckets},
      {{"present_records", Element::kInt32, "BHKP"}, &Params::present_records}};
  static constexpr InPlace kInPlace[] = {{2, 2}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    reader.integer("num_heads", params.num_heads);
    reader.integer("padding_multiple", params.padding_multiple);
  }
};

// The form that files have; runtimes make nodes with weights of bfloat16 too (reformer_kernels.h).
struct Linear {
  using Params = reformer_linear_params;
  static constexpr const char* kName = "Linear";
  static constexpr Functions<Params> kCPU = {reformer_cpu_linear_workspace, reformer_cpu_linear};
  static constexpr TensorField<Params> kInputs[] = {
      {{"x", Element::kT, "MK"}, &Params::x},
      {{"weight", Element::kInt8, "NK"}, &Params::weight},
      {{"scales", Element::kFloat32, "N"}, &Params::scales},
      {{"bias", Element::kT, "N"}, &Params::bias}};
  static constexpr TensorField<Params> kOutputs[] = {{{"y", Element::kT, "MN"}, &Params::y}};

  template <typename Reader>
  static void read_attributes(Reader& reader, Params& params) {
    reader.integer("activation", params.activation);
  }
};

template <typename... Operators>
struct OperatorList {};
using AllOperators = OperatorList<LSHBuckets, LSHAttention, LocalAttention, ResidualNorm, FinalNorm,
                                  LSHAttentionStep, LocalAttentionStep, LSHBucketsStep, Linear>;
// Those with CUDA kernels.
using CUDAOperators = OperatorList<LSHBuckets, LSHAttention, LocalAttention, ResidualNorm,
                                   FinalNorm, LSHAttentionStep, LocalAttentionStep, LSHBucketsStep>;
// What TensorRT gets plugins for: it fuses the others' function bodies itself.
using PluginOperators = OperatorList<LSHBuckets, LSHAttention, LocalAttention, LSHAttentionStep,
                                     LocalAttentionStep, LSHBucketsStep>;

// How many outputs may take an input's memory.
template <typename Operator, typename = void>
constexpr size_t kInPlaceOutputs = 0;
template <typename Operator>
constexpr size_t kInPlaceOutputs<Operator, std::void_t<decltype(Operator::kInPlace)>> =
    std::size(Operator::kInPlace);

// A node's parameters without tensors and execution.
template <typename Operator, typename Reader>
typename Operator::Params read_parameters(Reader&& reader) {
  typename Operator::Params params{};
  params.struct_size = sizeof(params);
  params.abi_version = REFORMER_ABI_VERSION;
  Operator::read_attributes(reader, params);
  return params;
}

// For a reader's `integers`.
template <size_t N>
void copy_factors(const char* op, const char* name, const std::vector<int32_t>& factors,
                  int32_t (&target)[N], int32_t& count) {
  if (factors.size() > N) {
    throw std::invalid_argument(std::string(op) + ": " + name + " has " +
                                std::to_string(factors.size()) + " factors, expected at most " +
                                std::to_string(N));
  }
  std::copy(factors.begin(), factors.end(), target);
  count = static_cast<int32_t>(factors.size());
}

// The tensors of a call, in the order of kInputs and kOutputs.
template <typename Operator>
void set_tensors(const reformer_tensor* inputs, const reformer_tensor* outputs,
                 typename Operator::Params& params) {
  for (size_t i = 0; i < std::size(Operator::kInputs); ++i) {
    params.*Operator::kInputs[i].field = inputs[i];
  }
  for (size_t i = 0; i < std::size(Operator::kOutputs); ++i) {
    params.*Operator::kOutputs[i].field = outputs[i];
  }
}

inline int32_t dtype_of(const TensorRule& rule, int32_t element_type) {
  switch (rule.element) {
    case Element::kFloat32:
      return REFORMER_FLOAT32;
    case Element::kInt32:
      return REFORMER_INT32;
    case Element::kInt8:
      return REFORMER_INT8;
    case Element::kT:
      break;
  }
  return element_type;
}

// The first input whose type is T.
template <typename Operator>
constexpr size_t find_element_input() {
  size_t input = 0;
  while (Operator::kInputs[input].rule.element != Element::kT) ++input;
  return input;
}

// Which dimension of the inputs has the size of a dimension of an output.
struct Source {
  size_t input;
  size_t axis;
};

template <typename Operator>
constexpr Source find_source(size_t output, size_t output_axis) {
  const char letter = Operator::kOutputs[output].rule.shape[output_axis];
  size_t input = 0;
  while (Operator::kInputs[input].rule.shape.find(letter) == std::string_view::npos) ++input;
  return {input, Operator::kInputs[input].rule.shape.find(letter)};
}

// The output that these inputs give, without data.
template <typename Operator>
reformer_tensor describe_output(const reformer_tensor* inputs, size_t index) {
  const TensorRule& rule = Operator::kOutputs[index].rule;
  const int32_t element_type = inputs[find_element_input<Operator>()].dtype;
  reformer_tensor output{nullptr, dtype_of(rule, element_type), rule.rank(), {}};
  for (size_t axis = 0; axis < rule.shape.size(); ++axis) {
    const Source source = find_source<Operator>(index, axis);
    output.dims[axis] = inputs[source.input].dims[source.axis];
  }
  return output;
}

}  // namespace reformer
