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

bool is_lsh(const Node& node) { return node.op == "LSHAttention" || node.op == "LSHAttentionStep"; }

// A call of the node without operands.
Attention describe_attention(const Node& node) {
  Attention call;
  call.lsh = is_lsh(node);
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

// kColumns are a word of records.
Shapes buckets_step_shapes(const Node& node, const Size& size, const TensorInfo& hidden,
                           const TensorInfo& new_buckets) {
  const TensorInfo lengths{{size.batch}, nvinfer1::DataType::kINT32};
  const TensorInfo rotations{{node.heads, node.head_size, node.rounds, kColumns},
                             nvinfer1::DataType::kFLOAT};
  TensorInfo all = new_buckets;
  all.dims[3] = size.capacity;
  return {{hidden, rotations, all, lengths, lengths}, {new_buckets, all, all}};
}

Shapes step_shapes(const Node& node, const Size& size, const TensorInfo& hidden,
                   const TensorInfo& new_buckets) {
  TensorInfo cache = hidden;
  cache.dims[1] = cache_capacity(node, size);
  if (node.op == "LSHBucketsStep") return buckets_step_shapes(node, size, hidden, new_buckets);
  const TensorInfo lengths{{size.batch}, nvinfer1::DataType::kINT32};
  if (!is_lsh(node)) {
    return {{hidden, hidden, hidden, cache, cache, lengths, lengths}, {hidden, cache, cache}};
  }
  TensorInfo buckets = new_buckets;
  buckets.dims[3] = cache.dims[1];
  return {{hidden, hidden, new_buckets, cache, cache, buckets, lengths, lengths},
          {hidden, cache, cache, buckets}};
}

}  // namespace

Fields attributes_of(const Node& node) {
  Fields fields;
  fields.set("num_heads", std::vector<int32_t>{to_int32(node.heads)});
  if (node.op == "LSHBuckets") {
    fields.set("num_buckets", node.factors);
    return fields;
  }
  if (node.op == "LSHBucketsStep") {
    fields.set("padding_multiple", std::vector<int32_t>{to_int32(node.chunking.padding_multiple)});
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

double tolerance_of(int32_t dtype) {
  if (dtype == REFORMER_FLOAT32) return 1e-5;
  return dtype == REFORMER_FLOAT16 ? 2e-3 : 1e-2;
}

bool is_step(const Node& node) {
  return node.op == "LSHAttentionStep" || node.op == "LocalAttentionStep" ||
         node.op == "LSHBucketsStep";
}

int64_t cache_capacity(const Node& node, const Size& size) {
  if (node.op != "LocalAttentionStep") return size.capacity;
  return (node.chunking.num_chunks_before + 1) * node.chunking.chunk_length;
}

Shapes shapes_of(const Node& node, const Size& size) {
  const int64_t batch = size.batch;
  const int64_t length = size.length;
  const TensorInfo hidden{{batch, length, node.heads * node.head_size}, type_of(node.dtype)};
  const TensorInfo mask{{batch, length}, nvinfer1::DataType::kINT32};
  const TensorInfo buckets{{batch, node.heads, node.rounds, length}, nvinfer1::DataType::kINT32};
  if (is_step(node)) return step_shapes(node, size, hidden, buckets);
  if (node.op == "LSHBuckets") {
    const TensorInfo rotations{{node.heads, node.head_size, node.rounds, rotation_size(node)},
                               nvinfer1::DataType::kFLOAT};
    return {{hidden, rotations, mask}, {buckets}};
  }
  if (node.op == "LSHAttention") return {{hidden, hidden, buckets, mask}, {hidden}};
  return {{hidden, hidden, hidden, mask}, {hidden}};
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
