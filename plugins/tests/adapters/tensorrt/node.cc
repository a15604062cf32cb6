#include "node.h"

#include <numeric>

namespace reformer::test {
namespace {

nvinfer1::DataType type_of(int32_t dtype) {
  switch (dtype) {
    case REFORMER_FLOAT16:
      return nvinfer1::DataType::kHALF;
    case REFORMER_BFLOAT16:
      return nvinfer1::DataType::kBF16;
    default:
      return nvinfer1::DataType::kFLOAT;
  }
}

constexpr int64_t kColumns = 5;  // of rotations whose node has no factors

int64_t rotation_size(const Node& node) {
  if (node.factors.empty()) return kColumns;
  return std::accumulate(node.factors.begin(), node.factors.end(), int64_t{0}) / 2;
}

std::vector<float> draw_integers(Random& random, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(draw_int(random, -3, 3));
  return values;
}

int32_t to_int32(int64_t value) { return static_cast<int32_t>(value); }

// A call of the node without operands.
Attention describe_attention(const Node& node) {
  Attention call;
  call.lsh = node.op == "LSHAttention";
  call.dtype = node.dtype;
  call.heads = node.heads;
  call.head_size = node.head_size;
  call.rounds = node.rounds;
  call.chunking = node.chunking;
  call.epsilon = node.epsilon;
  call.self_logit = node.self_logit;
  call.dense_threshold = node.dense_threshold;
  call.wraps = call.lsh || node.wraps;
  return call;
}

}  // namespace

Fields attributes_of(const Node& node) {
  Fields fields;
  fields.set("num_heads", std::vector<int32_t>{to_int32(node.heads)});
  if (node.op == "LSHBuckets") {
    fields.set("num_buckets", node.factors);
    return fields;
  }
  const auto set = [&](const char* name, int64_t value) {
    fields.set(name, std::vector<int32_t>{to_int32(value)});
  };
  set("chunk_length", node.chunking.chunk_length);
  set("num_chunks_before", node.chunking.num_chunks_before);
  set("num_chunks_after", node.chunking.num_chunks_after);
  set("is_causal", node.chunking.is_causal);
  set("padding_multiple", node.chunking.padding_multiple);
  set("padding_threshold", node.chunking.padding_threshold);
  const Attention call = describe_attention(node);
  if (call.lsh) fields.set("key_norm_epsilon", node.epsilon);
  fields.set("self_logit", call.own_logit());
  if (call.lsh) {
    set("dense_threshold", call.most_dense());
  } else {
    set("wraps", node.wraps ? 1 : 0);
  }
  return fields;
}

Shapes shapes_of(const Node& node, int64_t batch, int64_t length) {
  const TensorInfo hidden{{batch, length, node.heads * node.head_size}, type_of(node.dtype)};
  const TensorInfo mask{{batch, length}, nvinfer1::DataType::kINT32};
  const TensorInfo buckets{{batch, node.heads, node.rounds, length}, nvinfer1::DataType::kINT32};
  if (node.op == "LSHBuckets") {
    const TensorInfo rotations{{node.heads, node.head_size, node.rounds, rotation_size(node)},
                               nvinfer1::DataType::kFLOAT};
    return {{hidden, rotations, mask}, buckets};
  }
  if (node.op == "LSHAttention") return {{hidden, hidden, buckets, mask}, hidden};
  return {{hidden, hidden, hidden, mask}, hidden};
}

Attention draw_attention_call(Random& random, const Node& node, int64_t batch, int64_t length) {
  Attention call = describe_attention(node);
  call.batch = batch;
  call.length = length;
  const int64_t count = batch * length * node.heads * node.head_size;
  call.query = draw_values(random, node.dtype, count, 1.0f);
  call.value = draw_values(random, node.dtype, count, 1.0f);
  if (!call.lsh) call.key = draw_values(random, node.dtype, count, 1.0f);
  call.mask = draw_mask(random, batch, length);
  call.buckets.resize(static_cast<size_t>(batch * node.heads * node.rounds * length));
  for (int32_t& bucket : call.buckets) bucket = to_int32(draw_int(random, 0, 24));
  return call;
}

Hash draw_hash_call(Random& random, const Node& node, int64_t batch, int64_t length) {
  Hash call;
  call.dtype = node.dtype;
  call.batch = batch;
  call.length = length;
  call.heads = node.heads;
  call.head_size = node.head_size;
  call.rounds = node.rounds;
  call.factors = node.factors;
  call.columns = kColumns;
  call.query_key = draw_integers(random, batch * length * node.heads * node.head_size);
  call.rotations =
      draw_integers(random, node.heads * node.head_size * node.rounds * rotation_size(node));
  call.mask = draw_mask(random, batch, length);
  return call;
}

}  // namespace reformer::test
