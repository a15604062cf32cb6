// One operator node in a network: its attributes, and its tensors for the sizes of a call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adapters/tensorrt/tensorrt_api.h"
#include "draw.h"
#include "fields.h"
#include "operands.h"

namespace reformer::test {

struct TensorInfo {
  std::vector<int64_t> dims;
  nvinfer1::DataType type;
};

// What does not change from call to call.
struct Node {
  std::string op;
  int32_t dtype = REFORMER_FLOAT32;
  int64_t heads = 2, head_size = 16, rounds = 3;
  std::vector<int32_t> factors = {4, 6};
  reformer_chunking chunking = {16, 1, 1, 32, 16, 0};
  float epsilon = 1e-6f;
  std::optional<float> self_logit;         // else transformers' rule, like the next two
  std::optional<int64_t> dense_threshold;  // LSHAttention
  bool wraps = true;                       // LocalAttention
};

// The sizes that do not change an engine. A step has `length` new tokens, and room for `capacity`
// in the caches of LSHAttentionStep.
struct Size {
  int64_t batch;
  int64_t length;
  int64_t capacity = 100;
};

struct Shapes {
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
};

// The error that a plugin's numbers may have against the written-down reference.
double tolerance_of(int32_t dtype);

bool is_step(const Node& node);
// Tokens that a step's caches have room for: of LocalAttentionStep's, what the last token can see.
int64_t cache_capacity(const Node& node, const Size& size);

Fields attributes_of(const Node& node);
Shapes shapes_of(const Node& node, const Size& size);

// Operands with the node's attributes. A hash's are small integers, so that every sum is exact.
Attention draw_attention_call(Random& random, const Node& node, int64_t batch, int64_t length);
Hash draw_hash_call(Random& random, const Node& node, int64_t batch, int64_t length);

}  // namespace reformer::test
