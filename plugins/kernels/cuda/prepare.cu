#include <limits>

#include "kernels/cuda/attention/key_scale.cuh"
#include "kernels/cuda/prepare.h"
#include "kernels/cuda/sort/block.cuh"

namespace reformer::cuda {
namespace {

// Sorting takes longest, so it starts first. Without it, blocks need fewer registers.
template <typename T, bool kSorts>
__global__ void __launch_bounds__(kBlockSortThreads, kSorts ? 1 : 2)
    prepare_lsh(const KeyScaleArguments<T> key_scale, const KeyScalePlan plan,
                const SortArguments sort, int sorting_blocks) {
  const int index = static_cast<int>(blockIdx.x) - sorting_blocks;
  if constexpr (kSorts) {
    if (index < 0) {
      BlockSort(sort, blockIdx.x).run();
      return;
    }
  }
  scale_keys(key_scale, plan, index);
}

}  // namespace

template <typename T>
reformer_status launch_preparation(const KeyScaleArguments<T>& key_scale, const SortArguments& sort,
                                   void* stream) {
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  const int64_t width_bytes = key_scale.heads * key_scale.head_size * int64_t{sizeof(T)};
  if (width_bytes > kMaxInt32) return REFORMER_ERROR_TOO_LARGE;
  const KeyScalePlan plan = plan_key_scale(key_scale, kBlockSortThreads);
  const int64_t sorting_blocks = sort.is_long() ? 0 : sort.segments;
  if (sorting_blocks > kMaxInt32 || plan.blocks > kMaxInt32 - sorting_blocks) {
    return REFORMER_ERROR_TOO_LARGE;
  }
  const int64_t blocks = sorting_blocks + plan.blocks;
  if (sorting_blocks == 0) {
    return launch(prepare_lsh<T, false>, blocks, kBlockSortThreads, 0, stream, key_scale, plan,
                  sort, 0);
  }
  return launch(prepare_lsh<T, true>, blocks, kBlockSortThreads, kBlockSortBytes, stream, key_scale,
                plan, sort, static_cast<int>(sorting_blocks));
}

template reformer_status launch_preparation(const KeyScaleArguments<float>&, const SortArguments&,
                                            void*);
template reformer_status launch_preparation(const KeyScaleArguments<float16>&, const SortArguments&,
                                            void*);
template reformer_status launch_preparation(const KeyScaleArguments<bfloat16>&,
                                            const SortArguments&, void*);

}  // namespace reformer::cuda
