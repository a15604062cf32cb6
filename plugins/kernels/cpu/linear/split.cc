#include "kernels/cpu/linear/split.h"

#include <algorithm>
#include <limits>

#include "kernels/common/sizes.h"

namespace reformer {
namespace {

// Rows of a strip at most, where a task converts them by itself, and bytes of x that they may have
// then: beside the weights, in a second-level cache.
constexpr int64_t kNearRows = 64;
constexpr int64_t kNearBytes = int64_t{1} << 19;
// A strip's own costs, reading the weights, in rows.
constexpr int64_t kStripCost = 4;
// A panel of up to so many bytes stays in the nearest cache while rows of y are written. Then turns
// of few rows are faster: y's way to memory overlaps with the next turn's products.
constexpr size_t kSmallPanel = size_t{1} << 14;
// Bytes of the weight that are read once, below which a share of the work is not worth another
// thread.
constexpr int64_t kLeastBytes = int64_t{1} << 17;

// The height of strips with which the worker that has most rows has fewest.
int64_t choose_strip_rows(int64_t rows, int64_t num_workers, int64_t most) {
  constexpr int64_t kStep = 16;
  int64_t best = most;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t height = most; height >= 2 * kStep; height -= kStep) {
    const int64_t turns = divide_up(divide_up(rows, height), num_workers);
    const int64_t cost = std::min(turns * height, rows) + turns * kStripCost;
    if (cost < least) {
      least = cost;
      best = height;
    }
  }
  return best;
}

}  // namespace

// Tiles are so fast that reading the weights decides: they keep the tallest strips.
Split choose_split(const LinearSizes& sizes, const PackedLinear& packed, int64_t x_bytes,
                   bool sets_tiles, int64_t num_workers) {
  const int64_t rows = sizes.rows;
  const int64_t panels = static_cast<int64_t>(packed.num_panels);
  Split split;
  const int64_t strips = divide_up(rows, kStripRows);
  if (strips * 2 > num_workers && !sets_tiles) {
    split.converts_before = kNearRows * sizes.size * x_bytes > kNearBytes;
    split.strip_rows =
        choose_strip_rows(rows, num_workers, split.converts_before ? kStripRows : kNearRows);
    split.panels = panels;
  } else {
    const int64_t wanted = divide_up(int64_t{4} * num_workers, strips);
    const int64_t least = divide_up(kLeastBytes, static_cast<int64_t>(packed.panel_bytes));
    split.panels = std::min(panels, std::max(least, divide_up(panels, wanted)));
    split.converts_before = sets_tiles || split.panels < panels;
  }
  split.groups = divide_up(panels, split.panels);
  const bool is_small = packed.panel_bytes <= kSmallPanel;
  split.turn_rows = is_small && !sets_tiles ? int64_t{kRowBlock} : split.strip_rows;
  return split;
}

}  // namespace reformer
