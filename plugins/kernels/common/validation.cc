#include "kernels/common/validation.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <limits>
#include <utility>

#include "kernels/common/attention_checks.h"
#include "kernels/common/tensor_checks.h"

namespace reformer {
namespace {

// Without factors the rotations say how many buckets there are.
void check_rotation_size(Checker& check, int64_t size, HashSizes* sizes) {
  check.attribute("the rotations' last dimension", size, 1, kMaxInt32 / 2);
  if (!check.ok()) return;
  sizes->rotation_size = size;
  sizes->masked_bucket = static_cast<int32_t>(2 * size);
}

void check_factors(Checker& check, const reformer_lsh_buckets_params& params, HashSizes* sizes) {
  check.attribute("the number of num_buckets factors", params.num_factors, 0,
                  REFORMER_MAX_BUCKET_FACTORS);
  int64_t product = 1;
  for (int32_t i = 0; check.ok() && i < params.num_factors; ++i) {
    const int32_t factor = params.num_buckets[i];
    if (factor < 2 || factor % 2 != 0) {
      check.fail(REFORMER_ERROR_ATTRIBUTE, "num_buckets[%d] is %d, expected an even number >= 2", i,
                 factor);
      return;
    }
    product *= factor;
    sizes->rotation_size += factor / 2;
    check.limit("the product of num_buckets", product, kMaxInt32);
  }
  sizes->masked_bucket = static_cast<int32_t>(product);
}

// Chunking of a length that is known, which it must fit.
void resolve_chunking(Checker& check, const reformer_chunking& chunking, int64_t dense_threshold,
                      AttentionSizes* sizes) {
  check_chunking(check, chunking);
  check.attribute("dense_threshold", dense_threshold, 0, std::numeric_limits<int64_t>::max());
  if (!check.ok()) return;
  cut_chunks(chunking, dense_threshold, sizes);
  if (sizes->dense) return;
  const int64_t padded = sizes->padded_length;
  if (padded % chunking.chunk_length != 0) {
    check.fail(REFORMER_ERROR_SHAPE,
               "length %lld (padded to %lld) is not a multiple of chunk_length %lld: expected "
               "padding_multiple to be a multiple of it and padding_threshold to be at most "
               "what is dense",
               static_cast<long long>(sizes->length), static_cast<long long>(padded),
               static_cast<long long>(chunking.chunk_length));
    return;
  }
  check.limit("padded length", padded, kMaxPositions);
  check.limit("keys in one chunk's window",
              (sizes->before + sizes->after + 1) * chunking.chunk_length, kMaxInt32);
}

// All but stream_out and other_stream.
void check_norm_rows(Checker& check, const reformer_residual_norm_params& params, bool is_final,
                     NormSizes* sizes) {
  check.dtype("stream", params.stream, REFORMER_FLOAT32);
  check.shape("stream", params.stream, {kAny, kAny, kAny});
  if (!check.ok()) return;
  const int64_t batch = params.stream.dims[0];
  const int64_t length = params.stream.dims[1];
  sizes->rows = batch * length;
  sizes->size = params.stream.dims[2];
  if (sizes->size < 1) {
    check.fail(REFORMER_ERROR_SHAPE, "stream has last dimension 0, expected at least 1");
  }
  check.limit("the size of a row", sizes->size, is_final ? kMaxInt32 / 2 : kMaxInt32);
  if (!check.ok()) return;
  sizes->width = is_final ? 2 * sizes->size : sizes->size;
  check.floating("update", params.update);
  check.shape("update", params.update, {batch, length, sizes->size});
  for (const auto& [name, tensor] :
       {std::pair{"scale", &params.scale}, std::pair{"bias", &params.bias}}) {
    check.dtype(name, *tensor, REFORMER_FLOAT32);
    check.shape(name, *tensor, {sizes->width});
  }
  reformer_tensor wide = params.update;
  wide.dims[2] = sizes->width;
  check.like("normed", params.normed, "update", wide);
}

// In place is fine where a row is read before it is written.
void check_norm_memory(Checker& check, const reformer_residual_norm_params& params, bool is_final) {
  if (is_final) {
    check.disjoint(
        "normed", params.normed,
        {&params.other_stream, &params.stream, &params.update, &params.scale, &params.bias});
    return;
  }
  if (params.stream_out.data != params.stream.data) {
    check.disjoint("stream_out", params.stream_out, {&params.stream});
  }
  if (params.normed.data != params.update.data) {
    check.disjoint("normed", params.normed, {&params.update});
  }
  check.disjoint("stream_out", params.stream_out, {&params.update, &params.scale, &params.bias});
  check.disjoint("normed", params.normed,
                 {&params.stream, &params.scale, &params.bias, &params.stream_out});
}

}  // namespace

void check_chunking(Checker& check, const reformer_chunking& chunking) {
  check.attribute("chunk_length", chunking.chunk_length, 1, kMaxInt32);
  check.attribute("num_chunks_before", chunking.num_chunks_before, 0, kMaxInt32);
  check.attribute("num_chunks_after", chunking.num_chunks_after, 0, kMaxInt32);
  check.attribute("padding_multiple", chunking.padding_multiple, 1, kMaxInt32);
  check.attribute("padding_threshold", chunking.padding_threshold, 0,
                  std::numeric_limits<int64_t>::max());
  check.attribute("is_causal", chunking.is_causal, 0, 1);
}

void check_self_logit(Checker& check, float self_logit, bool may_be_absent) {
  if (may_be_absent && self_logit == std::numeric_limits<float>::infinity()) return;
  if (std::fabs(self_logit) <= REFORMER_MAX_SELF_LOGIT) return;  // not for NaN
  check.fail(REFORMER_ERROR_ATTRIBUTE, "self_logit is %g, expected -%g to %g%s",
             static_cast<double>(self_logit), static_cast<double>(REFORMER_MAX_SELF_LOGIT),
             static_cast<double>(REFORMER_MAX_SELF_LOGIT), may_be_absent ? ", or infinity" : "");
}

void cut_chunks(const reformer_chunking& chunking, int64_t dense_threshold, AttentionSizes* sizes) {
  sizes->causal = chunking.is_causal != 0;
  const int64_t length = sizes->length;
  const int64_t multiple = chunking.padding_multiple;
  int64_t padded = length;
  if (length > chunking.padding_threshold) padded = (length + multiple - 1) / multiple * multiple;
  sizes->dense = padded <= dense_threshold;
  if (sizes->dense) {
    sizes->padded_length = sizes->chunk_length = length;
    return;
  }
  sizes->padded_length = padded;
  sizes->chunk_length = chunking.chunk_length;
  sizes->before = chunking.num_chunks_before;
  sizes->after = chunking.num_chunks_after;
}

reformer_status check_lsh_buckets(const reformer_lsh_buckets_params* params, Extent extent,
                                  HashSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  Checker check("LSHBuckets", params->execution);
  check.execution();
  check_hidden(check, "query_key", params->query_key, params->num_heads, sizes);
  check_factors(check, *params, sizes);
  const bool counted = params->num_factors > 0;
  check.dtype("rotations", params->rotations, REFORMER_FLOAT32);
  check.shape("rotations", params->rotations,
              {sizes->heads, sizes->head_size, kAny, counted ? sizes->rotation_size : kAny});
  if (!counted && check.ok()) check_rotation_size(check, params->rotations.dims[3], sizes);
  check.dtype("attention_mask", params->attention_mask, REFORMER_INT32);
  check.shape("attention_mask", params->attention_mask, {sizes->batch, sizes->length});
  check.dtype("buckets", params->buckets, REFORMER_INT32);
  if (!check.ok()) return check.status();
  sizes->rounds = params->rotations.dims[2];
  check.attribute("num_hashes (rotations' third dimension)", sizes->rounds, 1, kMaxInt32);
  check.shape("buckets", params->buckets,
              {sizes->batch, sizes->heads, sizes->rounds, sizes->length});
  if (extent == Extent::kShapes) return check.status();
  check.data("query_key", params->query_key);
  check.data("rotations", params->rotations);
  check.data("attention_mask", params->attention_mask);
  check.data("buckets", params->buckets);
  check.disjoint("buckets", params->buckets,
                 {&params->query_key, &params->rotations, &params->attention_mask});
  return check.status();
}

reformer_status check_lsh_attention(const reformer_lsh_attention_params* params, Extent extent,
                                    AttentionSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  Checker check("LSHAttention", params->execution);
  check.execution();
  check_hidden(check, "query_key", params->query_key, params->num_heads, sizes);
  const reformer_tensor& like = params->query_key;
  check.like("value", params->value, "query_key", like);
  check.like("output", params->output, "query_key", like);
  check.dtype("buckets", params->buckets, REFORMER_INT32);
  check.shape("buckets", params->buckets, {sizes->batch, sizes->heads, kAny, sizes->length});
  check.dtype("attention_mask", params->attention_mask, REFORMER_INT32);
  check.shape("attention_mask", params->attention_mask, {sizes->batch, sizes->length});
  if (!(params->key_norm_epsilon > 0) || !std::isfinite(params->key_norm_epsilon)) {
    check.fail(REFORMER_ERROR_ATTRIBUTE, "key_norm_epsilon is %g, expected a finite number > 0",
               static_cast<double>(params->key_norm_epsilon));
  }
  check_self_logit(check, params->self_logit, false);
  resolve_chunking(check, params->chunking, params->dense_threshold, sizes);
  if (!check.ok()) return check.status();
  check.attribute("num_hashes (buckets' third dimension)", params->buckets.dims[2], 1, kMaxInt32);
  sizes->rounds = sizes->dense ? 1 : params->buckets.dims[2];
  if (extent == Extent::kShapes) return check.status();
  check.data("query_key", params->query_key);
  check.data("value", params->value);
  check.data("buckets", params->buckets);
  check.data("attention_mask", params->attention_mask);
  check.data("output", params->output);
  check.disjoint("output", params->output,
                 {&params->query_key, &params->value, &params->buckets, &params->attention_mask});
  return check.status();
}

reformer_status check_local_attention(const reformer_local_attention_params* params, Extent extent,
                                      AttentionSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  Checker check("LocalAttention", params->execution);
  check.execution();
  check_hidden(check, "query", params->query, params->num_heads, sizes);
  check.like("key", params->key, "query", params->query);
  check.like("value", params->value, "query", params->query);
  check.like("output", params->output, "query", params->query);
  check.dtype("attention_mask", params->attention_mask, REFORMER_INT32);
  check.shape("attention_mask", params->attention_mask, {sizes->batch, sizes->length});
  check_self_logit(check, params->self_logit, true);
  check.attribute("wraps", params->wraps, 0, 1);
  sizes->wraps = params->wraps != 0;
  resolve_chunking(check, params->chunking, params->chunking.chunk_length, sizes);
  if (extent == Extent::kShapes) return check.status();
  check.data("query", params->query);
  check.data("key", params->key);
  check.data("value", params->value);
  check.data("attention_mask", params->attention_mask);
  check.data("output", params->output);
  check.disjoint("output", params->output,
                 {&params->query, &params->key, &params->value, &params->attention_mask});
  return check.status();
}

reformer_status check_residual_norm(const reformer_residual_norm_params* params, Extent extent,
                                    NormSizes* sizes) {
  if (const reformer_status status = check_header(params)) return status;
  const bool is_final = params->stream_out.rank == 0;
  sizes->op = is_final ? "FinalNorm" : "ResidualNorm";
  Checker check(sizes->op, params->execution);
  check.execution();
  check_norm_rows(check, *params, is_final, sizes);
  const auto [name, beside] = is_final ? std::pair{"other_stream", &params->other_stream}
                                       : std::pair{"stream_out", &params->stream_out};
  check.dtype(name, *beside, REFORMER_FLOAT32);
  check.shape(name, *beside, {params->stream.dims[0], params->stream.dims[1], sizes->size});
  if (!is_final && params->other_stream.rank != 0) {
    check.fail(REFORMER_ERROR_SHAPE, "other_stream has rank %d, expected none with stream_out",
               params->other_stream.rank);
  }
  if (!(params->epsilon >= 0) || !std::isfinite(params->epsilon)) {
    check.fail(REFORMER_ERROR_ATTRIBUTE, "epsilon is %g, expected a finite number >= 0",
               static_cast<double>(params->epsilon));
  }
  if (extent == Extent::kShapes) return check.status();
  check.data("stream", params->stream);
  check.data("update", params->update);
  check.data("scale", params->scale);
  check.data("bias", params->bias);
  check.data(name, *beside);
  check.data("normed", params->normed);
  check_norm_memory(check, *params, is_final);
  return check.status();
}

reformer_status check_workspace(const char* op, const reformer_execution& execution,
                                uint64_t needed) {
  if (needed == 0) return REFORMER_OK;
  if (execution.workspace == nullptr) {
    return report(execution, op, REFORMER_ERROR_NULL_POINTER, "workspace is null");
  }
  if (execution.workspace_size < needed) {
    return report(execution, op, REFORMER_ERROR_WORKSPACE,
                  "workspace has %llu bytes, expected at least %llu",
                  static_cast<unsigned long long>(execution.workspace_size),
                  static_cast<unsigned long long>(needed));
  }
  return REFORMER_OK;
}

reformer_status report(const reformer_execution& execution, const char* op, reformer_status status,
                       const char* format, ...) {
  if (execution.error == nullptr || execution.error_size == 0) return status;
  const size_t size = static_cast<size_t>(execution.error_size);
  const int prefix = std::snprintf(execution.error, size, "%s: ", op);
  if (prefix < 0 || static_cast<size_t>(prefix) >= size) return status;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(execution.error + prefix, size - static_cast<size_t>(prefix), format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace reformer
