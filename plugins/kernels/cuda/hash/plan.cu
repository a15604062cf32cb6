// How rotations are packed.
#include "kernels/common/rounding.h"
#include "kernels/cuda/hash/hash.h"
#include "kernels/cuda/operator_call.h"

namespace reformer::cuda {

template <typename T>
void plan_hash(HashArguments<T>* arguments) {
  constexpr int64_t kTile = HashPacking<T>::kColumnTile;
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  arguments->round_columns = 0;
  for (int32_t i = 0; i < arguments->factors.count; ++i) {
    arguments->round_columns += round_up<int64_t>(arguments->factors.half_sizes[i], kHashGroup);
  }
  const int64_t columns = multiply_sizes({arguments->rounds, arguments->round_columns});
  arguments->padded_columns = columns > kMax - kTile ? kMax : round_up(columns, kTile);
  arguments->padded_size = 32;
  while (arguments->padded_size < arguments->head_size) arguments->padded_size *= 2;
}

template void plan_hash(HashArguments<float>*);
template void plan_hash(HashArguments<float16>*);
template void plan_hash(HashArguments<bfloat16>*);

}  // namespace reformer::cuda
