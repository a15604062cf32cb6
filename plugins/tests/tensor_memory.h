// A tensor's memory in a test: as long as the tensor, aligned to 16 bytes but for some elements.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "operands.h"
#include "reformer_kernels.h"

namespace reformer::test {

class TensorMemory {
 public:
  // `offset`: elements by which it starts behind a multiple of 16 bytes.
  TensorMemory(int32_t dtype, const std::vector<float>& values, int64_t offset) : dtype_(dtype) {
    const size_t size = dtype == REFORMER_INT8 ? 1 : dtype == REFORMER_FLOAT32 ? 4 : 2;
    begin_ = static_cast<size_t>(offset) * size;
    bytes_.assign(begin_, kPoison);
    if (dtype == REFORMER_INT8) {
      for (const float value : values) bytes_.push_back(static_cast<char>(value));
    } else {
      const std::vector<char> elements = encode(dtype, values);
      bytes_.insert(bytes_.end(), elements.begin(), elements.end());
    }
  }

  void poison() { std::fill(bytes_.begin(), bytes_.end(), kPoison); }

  reformer_tensor view(std::initializer_list<int64_t> shape) {
    reformer_tensor tensor{bytes_.data() + begin_, dtype_, static_cast<int32_t>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), tensor.dims);
    return tensor;
  }

  std::vector<float> read() const {
    return decode(dtype_, {bytes_.begin() + static_cast<std::ptrdiff_t>(begin_), bytes_.end()});
  }

 private:
  static constexpr char kPoison = -1;  // as bytes: NaN
  int32_t dtype_;
  size_t begin_;  // bytes
  std::vector<char> bytes_;
};

}  // namespace reformer::test
