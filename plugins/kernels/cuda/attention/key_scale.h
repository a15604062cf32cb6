// Scales of LSH attention's keys, which are the normalised queries.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/device.h"

namespace reformer::cuda {

template <typename T>
struct KeyScaleArguments {
  Global<const T> query_key;   // [B, L, H*D]
  Global<const int32_t> mask;  // [B, L]
  // [B, H, L]: log2(e) / (sqrt(mean(x^2) + epsilon) * sqrt(D)), so that logits come out to base 2;
  // negative where the mask is 0: the sign is the mask.
  Global<float> key_scale;
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t head_size = 0;
  float epsilon = 0;
  bool vector_rows = false;  // rows may be read 16 bytes at a time
};

}  // namespace reformer::cuda
