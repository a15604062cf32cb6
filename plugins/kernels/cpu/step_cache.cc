#include "kernels/cpu/step_cache.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/parallel.h"

namespace reformer {
namespace {

// Bytes of a past cache that one range copies.
constexpr int64_t kCopyBytes = int64_t{1} << 20;
}  // namespace

void copy_past(const StepJob& job, const reformer_execution& execution, const StepCache& cache) {
  if (cache.past == cache.present) return;
  const int64_t bytes = cache.rows * job.sizes.capacity * cache.row_size;
  parallel_ranges(execution, bytes, kCopyBytes, [&](int64_t, int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(cache.present) + begin,
                static_cast<const char*>(cache.past) + begin, static_cast<size_t>(end - begin));
  });
}

void store_new(const StepJob& job, const StepCache& cache) {
  const StepSizes& sizes = job.sizes;
  if (sizes.capacity == 0) return;
  const int64_t lines = cache.rows / sizes.batch;
  for (int64_t line = 0; line < cache.rows; ++line) {
    const int64_t held = job.lengths[line / lines];
    const int64_t fresh = job.new_lengths[line / lines];
    char* present = static_cast<char*>(cache.present) + line * sizes.capacity * cache.row_size;
    const char* source =
        static_cast<const char*>(cache.fresh) + line * sizes.length * cache.row_size;
    for (int64_t i = std::max<int64_t>(0, fresh - sizes.capacity); i < fresh;) {
      const int64_t slot = (held + i) % sizes.capacity;
      const int64_t count = std::min(fresh - i, sizes.capacity - slot);
      std::memcpy(present + slot * cache.row_size, source + i * cache.row_size,
                  static_cast<size_t>(count * cache.row_size));
      i += count;
    }
  }
}

}  // namespace reformer
