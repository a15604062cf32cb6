// Checks of single tensors and attributes. The first failure wins; later checks then do nothing.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>

#include "kernels/common/validation.h"

namespace reformer {

// In an expected shape: any size >= 0.
constexpr int64_t kAny = std::numeric_limits<int64_t>::min();

// Bytes an element takes; 0 for a dtype that does not exist.
int64_t bytes_per_element(int32_t dtype);

class Checker {
 public:
  Checker(const char* op, const reformer_execution& execution) : op_(op), execution_(execution) {}

  bool ok() const { return status_ == REFORMER_OK; }
  reformer_status status() const { return status_; }

#if defined(__GNUC__)
  __attribute__((format(printf, 3, 4)))
#endif
  void fail(reformer_status status, const char* format, ...);

  void execution();  // also empties the error buffer
  void attribute(const char* name, int64_t value, int64_t low, int64_t high);
  // A size that an integer type must hold.
  void limit(const char* name, int64_t value, int64_t high);
  void floating(const char* name, const reformer_tensor& tensor);
  void dtype(const char* name, const reformer_tensor& tensor, int32_t expected);
  // Rank and dimensions, and that the byte size fits int64.
  void shape(const char* name, const reformer_tensor& tensor,
             std::initializer_list<int64_t> expected);
  void like(const char* name, const reformer_tensor& tensor, const char* model_name,
            const reformer_tensor& model);
  void data(const char* name, const reformer_tensor& tensor);
  void disjoint(const char* name, const reformer_tensor& output,
                std::initializer_list<const reformer_tensor*> inputs);

 private:
  const char* op_;
  const reformer_execution& execution_;
  reformer_status status_ = REFORMER_OK;
};

}  // namespace reformer
