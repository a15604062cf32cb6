// Checks that the operators of attention share, and how a length is cut into chunks.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/common/tensor_checks.h"
#include "kernels/common/validation.h"

namespace reformer {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
// Positions are int32, and two values above them mark masked keys and "no causal limit".
constexpr int64_t kMaxPositions = kMaxInt32 - 2;

template <typename Params>
reformer_status check_header(const Params* params) {
  if (params == nullptr) return REFORMER_ERROR_NULL_POINTER;
  // Nothing behind these two fields can be trusted yet, the error buffer included.
  const bool same =
      params->struct_size == sizeof(Params) && params->abi_version == REFORMER_ABI_VERSION;
  return same ? REFORMER_OK : REFORMER_ERROR_VERSION;
}

// Splits T [B, L, H*D] into sizes.
template <typename Sizes>
void check_hidden(Checker& check, const char* name, const reformer_tensor& tensor,
                  int32_t num_heads, Sizes* sizes) {
  check.attribute("num_heads", num_heads, 1, kMaxInt32);
  check.floating(name, tensor);
  check.shape(name, tensor, {kAny, kAny, kAny});
  if (!check.ok()) return;
  const int64_t width = tensor.dims[2];
  if (width < num_heads || width % num_heads != 0) {
    check.fail(REFORMER_ERROR_SHAPE,
               "%s has last dimension %lld, expected a multiple of num_heads %d", name,
               static_cast<long long>(width), num_heads);
    return;
  }
  sizes->batch = tensor.dims[0];
  sizes->length = tensor.dims[1];
  sizes->heads = num_heads;
  sizes->head_size = width / num_heads;
  sizes->empty = sizes->batch == 0 || sizes->length == 0;
  check.limit("length", sizes->length, kMaxPositions);
  check.limit("head size", sizes->head_size, kMaxInt32);
}

// Attributes, each for itself.
void check_chunking(Checker& check, const reformer_chunking& chunking);

// A position's own logit, or infinity where there may be none.
void check_self_logit(Checker& check, float self_logit, bool may_be_absent);

// Lp of sizes->length, and whether everything is one dense block, which it is up to
// `dense_threshold` (reformer_kernels.h, reformer_chunking).
void cut_chunks(const reformer_chunking& chunking, int64_t dense_threshold, AttentionSizes* sizes);

}  // namespace reformer
