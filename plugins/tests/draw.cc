#include "draw.h"

#include <algorithm>

#include "half.h"

namespace reformer::test {

std::vector<float> draw_values(Random& random, int32_t dtype, int64_t count, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    value = normal(random);
    if (dtype != REFORMER_FLOAT32) value = float_from_half(dtype, half_from_float(dtype, value));
  }
  return values;
}

std::vector<int32_t> draw_mask(Random& random, int64_t batch, int64_t length) {
  std::vector<int32_t> mask(static_cast<size_t>(batch * length), 1);
  for (int64_t b = 0; b < batch; ++b) {
    int32_t* row = mask.data() + b * length;
    switch (draw_int(random, 0, 5)) {
      case 0:
        std::fill(row + draw_int(random, 0, length), row + length, 0);
        break;
      case 1:
        for (int64_t i = 0; i < length; ++i) row[i] = static_cast<int32_t>(draw_int(random, 0, 2));
        break;
      case 2:
        std::fill(row, row + length, 0);
        break;
      default:
        break;
    }
  }
  return mask;
}

namespace {

void draw_chunking(Random& random, Attention* call) {
  reformer_chunking& chunking = call->chunking;
  chunking.chunk_length = draw_from(random, {1, 2, 3, 5, 8, 16, 31, 64, 65, 100, 700});
  chunking.num_chunks_before = draw_int(random, 0, 4);
  chunking.num_chunks_after = draw_int(random, 0, 4);
  chunking.is_causal = static_cast<int32_t>(draw_int(random, 0, 1));
  chunking.padding_multiple = chunking.chunk_length * draw_int(random, 1, 2);
  chunking.padding_threshold = draw_from(random, {0, 1, chunking.chunk_length});
  const int64_t longest = chunking.chunk_length > 100 ? 600 : 150;
  call->length = draw_int(random, 1, std::min<int64_t>(longest, 6 * chunking.chunk_length));
  if (chunking.padding_threshold < call->length) return;
  // No virtual padding up to the threshold: then the length must fit the chunks.
  if (call->length > chunking.chunk_length) chunking.padding_threshold = 0;
}

// The rules by which Reformers differ: in half of the calls transformers'.
void draw_rules(Random& random, Attention* call) {
  if (draw_int(random, 0, 1) == 0) return;
  const bool own = call->lsh || draw_int(random, 0, 2) > 0;
  if (own) call->self_logit = static_cast<float>(draw_from(random, {-100000000, -50000, -2, 0, 3}));
  if (!call->lsh) {
    call->wraps = draw_int(random, 0, 2) == 0;
    return;
  }
  const int64_t chunk = call->chunking.chunk_length;
  call->dense_threshold = draw_from(random, {0, chunk, 2 * chunk, 100, INT64_MAX});
  if (*call->dense_threshold < chunk) call->chunking.padding_threshold = 0;
}

void draw_buckets(Random& random, Attention* call) {
  const int64_t highest = draw_from(random, {0, 1, 4, 30, 5000, 1 << 20, INT32_MAX});
  call->buckets.resize(
      static_cast<size_t>(call->batch * call->heads * call->rounds * call->length));
  for (int32_t& bucket : call->buckets) {
    bucket = static_cast<int32_t>(draw_int(random, 0, highest));
  }
}

}  // namespace

Attention draw_attention(Random& random) {
  Attention call;
  call.lsh = draw_int(random, 0, 2) > 0;
  call.dtype = static_cast<int32_t>(draw_int(random, 0, 2));
  call.batch = draw_int(random, 1, 2);
  call.heads = draw_int(random, 1, 3);
  call.head_size = draw_from(random, {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 80, 127, 128});
  call.rounds = draw_int(random, 1, 5);
  draw_chunking(random, &call);
  draw_rules(random, &call);
  const float scale = draw_int(random, 0, 3) == 0 ? 4.0f : 1.0f;
  const int64_t count = call.batch * call.length * call.heads * call.head_size;
  call.query = draw_values(random, call.dtype, count, scale);
  call.value = draw_values(random, call.dtype, count, 1.0f);
  if (draw_int(random, 0, 7) == 0) {
    std::fill(call.query.begin(), call.query.begin() + call.head_size, 0.0f);  // a zero vector
  }
  call.mask = draw_mask(random, call.batch, call.length);
  if (call.lsh) {
    draw_buckets(random, &call);
  } else {
    call.key = draw_values(random, call.dtype, count, 1.0f);
  }
  return call;
}

Hash draw_hash(Random& random) {
  Hash call;
  call.dtype = static_cast<int32_t>(draw_int(random, 0, 2));
  call.batch = draw_int(random, 1, 2);
  call.heads = draw_int(random, 1, 3);
  call.head_size = draw_from(random, {1, 2, 3, 7, 16, 17, 33, 64, 128});
  call.rounds = draw_int(random, 1, 5);
  call.length = draw_from(random, {1, 2, 15, 16, 17, 127, 128, 129, 300});
  call.columns = draw_from(random, {1, 2, 7, 64, 65, 130});
  for (int64_t i = draw_int(random, 0, 3); i > 0; --i) {
    call.factors.push_back(2 *
                           static_cast<int32_t>(draw_from(random, {1, 2, 3, 8, 17, 64, 65, 100})));
  }
  const int64_t tokens = call.batch * call.length * call.heads;
  call.query_key = draw_values(random, call.dtype, tokens * call.head_size, 1.0f);
  call.rotations =
      draw_values(random, REFORMER_FLOAT32,
                  call.heads * call.head_size * call.rounds * call.rotation_size(), 1.0f);
  call.mask = draw_mask(random, call.batch, call.length);
  return call;
}

}  // namespace reformer::test
