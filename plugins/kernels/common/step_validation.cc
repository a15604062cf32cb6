// The step operators' parameters.
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/common/attention_checks.h"
#include "kernels/common/sizes.h"
#include "kernels/common/tensor_checks.h"
#include "kernels/common/validation.h"

namespace reformer {
namespace {

// Chunking in which later tokens change nothing that a step reads, at any length.
void check_step_chunking(Checker& check, const reformer_chunking& chunking, int64_t dense_threshold,
                         const StepSizes& sizes) {
  check_chunking(check, chunking);
  check.attribute("num_chunks_after", chunking.num_chunks_after, 0, 0);
  check.attribute("is_causal", chunking.is_causal, 1, 1);
  check.attribute("dense_threshold", dense_threshold, 0, std::numeric_limits<int64_t>::max());
  if (!check.ok()) return;
  check.attribute("padding_threshold", chunking.padding_threshold, 0, dense_threshold);
  if (chunking.padding_multiple % chunking.chunk_length != 0) {
    check.fail(REFORMER_ERROR_ATTRIBUTE,
               "padding_multiple is %lld, expected a multiple of chunk_length %lld",
               static_cast<long long>(chunking.padding_multiple),
               static_cast<long long>(chunking.chunk_length));
  }
  check.limit("keys in one chunk's window",
              (chunking.num_chunks_before + 1) * chunking.chunk_length, kMaxInt32);
  check.limit("padded length", sizes.length + chunking.padding_multiple, kMaxPositions);
}

void check_lengths(Checker& check, const reformer_tensor& lengths,
                   const reformer_tensor& new_lengths, const StepSizes& sizes) {
  for (const auto& [name, tensor] :
       {std::pair{"lengths", &lengths}, std::pair{"new_lengths", &new_lengths}}) {
    check.dtype(name, *tensor, REFORMER_INT32);
    check.shape(name, *tensor, {sizes.batch});
  }
}

// A cache of T and its successor.
void check_cache(Checker& check, const char* name, const reformer_tensor& past,
                 const char* present_name, const reformer_tensor& present, int32_t dtype,
                 const StepSizes& sizes) {
  const int64_t width = sizes.heads * sizes.head_size;
  check.dtype(name, past, dtype);
  check.shape(name, past, {sizes.batch, sizes.capacity, width});
  check.dtype(present_name, present, dtype);
  check.shape(present_name, present, {sizes.batch, sizes.capacity, width});
}

void check_buckets(Checker& check, const char* name, const reformer_tensor& buckets, int64_t tokens,
                   const StepSizes& sizes) {
  check.dtype(name, buckets, REFORMER_INT32);
  check.shape(name, buckets, {sizes.batch, sizes.heads, sizes.rounds, tokens});
}

struct Named {
  const char* name;
  const reformer_tensor* tensor;
};

// present may be past itself; no output may share memory with another input or output.
template <size_t kInputs, size_t kCaches>
void check_step_memory(Checker& check, const Named (&inputs)[kInputs], const Named& output,
                       const Named (&past)[kCaches], const Named (&present)[kCaches]) {
  for (const Named& input : inputs) check.data(input.name, *input.tensor);
  check.data(output.name, *output.tensor);
  for (size_t i = 0; i < kCaches; ++i) {
    check.data(past[i].name, *past[i].tensor);
    check.data(present[i].name, *present[i].tensor);
    check.disjoint(output.name, *output.tensor, {past[i].tensor, present[i].tensor});
    for (const Named& input : inputs) {
      check.disjoint(present[i].name, *present[i].tensor, {input.tensor});
    }
    for (size_t j = 0; j < kCaches; ++j) {
      if (j != i) check.disjoint(present[i].name, *present[i].tensor, {present[j].tensor});
      if (j == i && present[i].tensor->data == past[i].tensor->data) continue;
      check.disjoint(present[i].name, *present[i].tensor, {past[j].tensor});
    }
  }
  for (const Named& input : inputs) check.disjoint(output.name, *output.tensor, {input.tensor});
}

}  // namespace

int64_t most_step_tokens(const reformer_chunking& chunking, const StepSizes& sizes, bool ring) {
  return ring ? kMaxPositions - chunking.padding_multiple : sizes.capacity;
}

reformer_status check_step_row(const char* op, const reformer_execution& execution,
                               const StepSizes& sizes, int64_t most_tokens, int64_t row,
                               int64_t held, int64_t fresh) {
  const auto refuse = [&](const char* expected, int64_t limit) {
    return report(execution, op, REFORMER_ERROR_LENGTHS,
                  "row %lld holds %lld tokens and gets %lld, expected %s %lld",
                  static_cast<long long>(row), static_cast<long long>(held),
                  static_cast<long long>(fresh), expected, static_cast<long long>(limit));
  };
  if (held < 0 || fresh < 0) return refuse("numbers of at least", 0);
  if (fresh > sizes.length) return refuse("new tokens of at most", sizes.length);
  if (fresh > 1 && held > 0) return refuse("on a cache that is not empty at most", 1);
  if (held + fresh > most_tokens) return refuse("together at most", most_tokens);
  return REFORMER_OK;
}

reformer_status check_lsh_attention_step(const reformer_lsh_attention_step_params* params,
                                         Extent extent, StepSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  const auto& p = *params;
  Checker check("LSHAttentionStep", p.execution);
  check.execution();
  check_hidden(check, "query_key", p.query_key, p.num_heads, sizes);
  check.like("value", p.value, "query_key", p.query_key);
  check.like("output", p.output, "query_key", p.query_key);
  check.dtype("past_query_key", p.past_query_key, p.query_key.dtype);
  check.shape("past_query_key", p.past_query_key, {kAny, kAny, kAny});
  check.dtype("new_buckets", p.new_buckets, REFORMER_INT32);
  check.shape("new_buckets", p.new_buckets, {kAny, kAny, kAny, kAny});
  if (!check.ok()) return check.status();
  sizes->capacity = p.past_query_key.dims[1];
  sizes->rounds = p.new_buckets.dims[2];
  check.limit("a cache's tokens", sizes->capacity, kMaxPositions);
  check.attribute("num_hashes (new_buckets' third dimension)", sizes->rounds, 1, kMaxInt32);
  const int32_t dtype = p.query_key.dtype;
  check_cache(check, "past_query_key", p.past_query_key, "present_query_key", p.present_query_key,
              dtype, *sizes);
  check_cache(check, "past_value", p.past_value, "present_value", p.present_value, dtype, *sizes);
  check_buckets(check, "new_buckets", p.new_buckets, sizes->length, *sizes);
  check_buckets(check, "past_buckets", p.past_buckets, sizes->capacity, *sizes);
  check_buckets(check, "present_buckets", p.present_buckets, sizes->capacity, *sizes);
  check_lengths(check, p.lengths, p.new_lengths, *sizes);
  if (!(p.key_norm_epsilon > 0) || !std::isfinite(p.key_norm_epsilon)) {
    check.fail(REFORMER_ERROR_ATTRIBUTE, "key_norm_epsilon is %g, expected a finite number > 0",
               static_cast<double>(p.key_norm_epsilon));
  }
  check_self_logit(check, p.self_logit, false);
  check_step_chunking(check, p.chunking, p.dense_threshold, *sizes);
  if (extent == Extent::kShapes) return check.status();
  check_step_memory(
      check,
      {Named{"query_key", &p.query_key}, Named{"value", &p.value},
       Named{"new_buckets", &p.new_buckets}, Named{"lengths", &p.lengths},
       Named{"new_lengths", &p.new_lengths}},
      Named{"output", &p.output},
      {Named{"past_query_key", &p.past_query_key}, Named{"past_value", &p.past_value},
       Named{"past_buckets", &p.past_buckets}},
      {Named{"present_query_key", &p.present_query_key}, Named{"present_value", &p.present_value},
       Named{"present_buckets", &p.present_buckets}});
  return check.status();
}

reformer_status check_lsh_buckets_step(const reformer_lsh_buckets_step_params* params,
                                       Extent extent, BucketsStepSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  const auto& p = *params;
  Checker check("LSHBucketsStep", p.execution);
  check.execution();
  check_hidden(check, "query_key", p.query_key, p.num_heads, sizes);
  check.attribute("padding_multiple", p.padding_multiple, 1, kMaxInt32);
  check.dtype("rotations", p.rotations, REFORMER_FLOAT32);
  sizes->shares_rotations = p.rotations.dims[0] == 1;
  check.shape("rotations", p.rotations,
              {sizes->shares_rotations ? 1 : sizes->heads, sizes->head_size, kAny, kAny});
  check.dtype("past_records", p.past_records, REFORMER_INT32);
  check.shape("past_records", p.past_records, {sizes->batch, sizes->heads, kAny, kAny});
  if (!check.ok()) return check.status();
  sizes->rounds = p.rotations.dims[2];
  sizes->columns = p.rotations.dims[3];
  sizes->capacity = p.past_records.dims[3];
  check.attribute("num_hashes (rotations' third dimension)", sizes->rounds, 1, kMaxInt32);
  check.attribute("the rotations' last dimension", sizes->columns, 1, kMaxInt32 / 2);
  check.limit("a cache's tokens", sizes->capacity, kMaxPositions);
  if (!check.ok()) return check.status();
  sizes->words = divide_up(sizes->columns, int64_t{REFORMER_RECORD_COLUMNS});
  const int64_t lines = sizes->rounds * sizes->words;
  check.shape("past_records", p.past_records, {sizes->batch, sizes->heads, lines, sizes->capacity});
  check.dtype("present_records", p.present_records, REFORMER_INT32);
  check.shape("present_records", p.present_records,
              {sizes->batch, sizes->heads, lines, sizes->capacity});
  check_buckets(check, "new_buckets", p.new_buckets, sizes->length, *sizes);
  check_buckets(check, "buckets", p.buckets, sizes->capacity, *sizes);
  check_lengths(check, p.lengths, p.new_lengths, *sizes);
  if (extent == Extent::kShapes) return check.status();
  check_step_memory(check,
                    {Named{"query_key", &p.query_key}, Named{"rotations", &p.rotations},
                     Named{"lengths", &p.lengths}, Named{"new_lengths", &p.new_lengths}},
                    Named{"buckets", &p.buckets}, {Named{"past_records", &p.past_records}},
                    {Named{"present_records", &p.present_records}});
  check.data("new_buckets", p.new_buckets);
  check.disjoint("new_buckets", p.new_buckets,
                 {&p.query_key, &p.rotations, &p.lengths, &p.new_lengths, &p.buckets,
                  &p.past_records, &p.present_records});
  return check.status();
}

reformer_status check_local_attention_step(const reformer_local_attention_step_params* params,
                                           Extent extent, StepSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  const auto& p = *params;
  Checker check("LocalAttentionStep", p.execution);
  check.execution();
  check_hidden(check, "query", p.query, p.num_heads, sizes);
  check.like("key", p.key, "query", p.query);
  check.like("value", p.value, "query", p.query);
  check.like("output", p.output, "query", p.query);
  check_self_logit(check, p.self_logit, true);
  check.attribute("wraps", p.wraps, 0, 1);
  check_step_chunking(check, p.chunking, p.chunking.chunk_length, *sizes);
  if (!check.ok()) return check.status();
  sizes->capacity = (p.chunking.num_chunks_before + 1) * p.chunking.chunk_length;
  const int32_t dtype = p.query.dtype;
  check_cache(check, "past_key", p.past_key, "present_key", p.present_key, dtype, *sizes);
  check_cache(check, "past_value", p.past_value, "present_value", p.present_value, dtype, *sizes);
  check_lengths(check, p.lengths, p.new_lengths, *sizes);
  if (extent == Extent::kShapes) return check.status();
  check_step_memory(
      check,
      {Named{"query", &p.query}, Named{"key", &p.key}, Named{"value", &p.value},
       Named{"lengths", &p.lengths}, Named{"new_lengths", &p.new_lengths}},
      Named{"output", &p.output},
      {Named{"past_key", &p.past_key}, Named{"past_value", &p.past_value}},
      {Named{"present_key", &p.present_key}, Named{"present_value", &p.present_value}});
  return check.status();
}

}  // namespace reformer
