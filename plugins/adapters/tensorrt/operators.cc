#include "adapters/tensorrt/operators.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace reformer::tensorrt {
namespace {

using Element = TensorRule::Element;
using Kind = AttributeRule::Kind;
using nvinfer1::DimsExprs;

std::vector<AttributeRule> chunking_rules() {
  return {{"num_heads", Kind::kInteger},         {"chunk_length", Kind::kInteger},
          {"num_chunks_before", Kind::kInteger}, {"num_chunks_after", Kind::kInteger},
          {"is_causal", Kind::kInteger},         {"padding_multiple", Kind::kInteger},
          {"padding_threshold", Kind::kInteger}};
}

std::vector<AttributeRule> lsh_attention_rules() {
  std::vector<AttributeRule> rules = chunking_rules();
  rules.push_back({"key_norm_epsilon", Kind::kFloat});
  return rules;
}

reformer_chunking read_chunking(const Attributes& attributes) {
  reformer_chunking chunking{};
  chunking.chunk_length = attributes.integer("chunk_length");
  chunking.num_chunks_before = attributes.integer("num_chunks_before");
  chunking.num_chunks_after = attributes.integer("num_chunks_after");
  chunking.padding_multiple = attributes.integer("padding_multiple");
  chunking.padding_threshold = attributes.integer("padding_threshold");
  chunking.is_causal = attributes.integer("is_causal");
  return chunking;
}

reformer_tensor empty_hidden(int32_t num_heads) {
  return {nullptr, REFORMER_FLOAT32, 3, {0, 0, num_heads}};
}

reformer_tensor empty_mask() { return {nullptr, REFORMER_INT32, 2, {0, 0}}; }

}  // namespace

const OperatorRules& LSHBuckets::rules() {
  static const OperatorRules rules{
      "LSHBuckets",
      {{"query_key", Element::kT, 3},
       {"rotations", Element::kFloat32, 4},
       {"attention_mask", Element::kInt32, 2}},
      {"buckets", Element::kInt32, 4},
      {{"num_heads", Kind::kInteger}, {"num_buckets", Kind::kIntegers}}};
  return rules;
}

reformer_lsh_buckets_params LSHBuckets::read_attributes(const Attributes& attributes) {
  Params params{};
  params.num_heads = attributes.integer("num_heads");
  const std::vector<int32_t>& factors = attributes.integers("num_buckets");
  if (factors.size() > REFORMER_MAX_BUCKET_FACTORS) {
    throw std::invalid_argument("LSHBuckets: num_buckets has " + std::to_string(factors.size()) +
                                " factors, expected at most " +
                                std::to_string(REFORMER_MAX_BUCKET_FACTORS));
  }
  params.num_factors = static_cast<int32_t>(factors.size());
  std::copy(factors.begin(), factors.end(), params.num_buckets);
  return params;
}

void LSHBuckets::set_tensors(const Tensors& tensors, Params* params) {
  params->query_key = tensors.inputs[0];
  params->rotations = tensors.inputs[1];
  params->attention_mask = tensors.inputs[2];
  params->buckets = tensors.output;
}

Tensors LSHBuckets::empty_tensors(const Params& params) {
  int64_t columns = 0;
  for (int32_t i = 0; i < params.num_factors; ++i) columns += params.num_buckets[i] / 2;
  const int64_t heads = params.num_heads;
  return {{empty_hidden(params.num_heads),
           {nullptr, REFORMER_FLOAT32, 4, {heads, 1, 1, columns}},
           empty_mask()},
          {nullptr, REFORMER_INT32, 4, {0, heads, 1, 0}}};
}

DimsExprs LSHBuckets::output_shape(const DimsExprs* inputs) {
  const DimsExprs& query_key = inputs[0];
  const DimsExprs& rotations = inputs[1];
  return {4, {query_key.d[0], rotations.d[0], rotations.d[2], query_key.d[1]}};
}

const OperatorRules& LSHAttention::rules() {
  static const OperatorRules rules{"LSHAttention",
                                   {{"query_key", Element::kT, 3},
                                    {"value", Element::kT, 3},
                                    {"buckets", Element::kInt32, 4},
                                    {"attention_mask", Element::kInt32, 2}},
                                   {"output", Element::kT, 3},
                                   lsh_attention_rules()};
  return rules;
}

reformer_lsh_attention_params LSHAttention::read_attributes(const Attributes& attributes) {
  Params params{};
  params.num_heads = attributes.integer("num_heads");
  params.key_norm_epsilon = attributes.number("key_norm_epsilon");
  params.chunking = read_chunking(attributes);
  return params;
}

void LSHAttention::set_tensors(const Tensors& tensors, Params* params) {
  params->query_key = tensors.inputs[0];
  params->value = tensors.inputs[1];
  params->buckets = tensors.inputs[2];
  params->attention_mask = tensors.inputs[3];
  params->output = tensors.output;
}

Tensors LSHAttention::empty_tensors(const Params& params) {
  const reformer_tensor hidden = empty_hidden(params.num_heads);
  const reformer_tensor buckets{nullptr, REFORMER_INT32, 4, {0, params.num_heads, 1, 0}};
  return {{hidden, hidden, buckets, empty_mask()}, hidden};
}

DimsExprs LSHAttention::output_shape(const DimsExprs* inputs) { return inputs[0]; }

const OperatorRules& LocalAttention::rules() {
  static const OperatorRules rules{"LocalAttention",
                                   {{"query", Element::kT, 3},
                                    {"key", Element::kT, 3},
                                    {"value", Element::kT, 3},
                                    {"attention_mask", Element::kInt32, 2}},
                                   {"output", Element::kT, 3},
                                   chunking_rules()};
  return rules;
}

reformer_local_attention_params LocalAttention::read_attributes(const Attributes& attributes) {
  Params params{};
  params.num_heads = attributes.integer("num_heads");
  params.chunking = read_chunking(attributes);
  return params;
}

void LocalAttention::set_tensors(const Tensors& tensors, Params* params) {
  params->query = tensors.inputs[0];
  params->key = tensors.inputs[1];
  params->value = tensors.inputs[2];
  params->attention_mask = tensors.inputs[3];
  params->output = tensors.output;
}

Tensors LocalAttention::empty_tensors(const Params& params) {
  const reformer_tensor hidden = empty_hidden(params.num_heads);
  return {{hidden, hidden, hidden, empty_mask()}, hidden};
}

DimsExprs LocalAttention::output_shape(const DimsExprs* inputs) { return inputs[0]; }

}  // namespace reformer::tensorrt
