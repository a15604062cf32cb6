// Whole pieces of a size.
#pragma once

namespace reformer {

template <typename Int>
constexpr Int divide_up(Int value, Int by) {
  return (value + by - 1) / by;
}

template <typename Int>
constexpr Int round_up(Int value, Int multiple) {
  return divide_up(value, multiple) * multiple;
}

}  // namespace reformer
