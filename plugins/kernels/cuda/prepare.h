// What LSH attention prepares of its inputs, in one launch: the keys' scales, and in blocks of
// their own, which other multiprocessors do not wait for, the sorted order of short segments.
#pragma once

#include "kernels/cuda/attention/key_scale.h"
#include "kernels/cuda/device/device.h"
#include "kernels/cuda/sort/sort.h"

namespace reformer::cuda {

// Enqueues it. `sort` may have no segments; long ones are left to launch_long_sort.
template <typename T>
reformer_status launch_preparation(const KeyScaleArguments<T>& key_scale, const SortArguments& sort,
                                   void* stream);

}  // namespace reformer::cuda
