#include "kernels/common/tensor_checks.h"

#include <cstdarg>
#include <cstdio>
#include <limits>

namespace reformer {
namespace {

constexpr size_t kShapeText = 128;

const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case REFORMER_FLOAT32:
      return "float32";
    case REFORMER_FLOAT16:
      return "float16";
    case REFORMER_BFLOAT16:
      return "bfloat16";
    case REFORMER_INT32:
      return "int32";
    case REFORMER_INT8:
      return "int8";
    default:
      return "unknown";
  }
}

// "[2, 20, *]", with * for any size.
void write_shape(const int64_t* dims, int32_t rank, char (&text)[kShapeText]) {
  size_t used = 0;
  text[0] = '\0';
  for (int32_t i = 0; i < rank && used < sizeof(text); ++i) {
    const char* separator = i == 0 ? "[" : ", ";
    const size_t room = sizeof(text) - used;
    const int written = dims[i] == kAny ? std::snprintf(text + used, room, "%s*", separator)
                                        : std::snprintf(text + used, room, "%s%lld", separator,
                                                        static_cast<long long>(dims[i]));
    if (written > 0) used += static_cast<size_t>(written);
  }
  if (used < sizeof(text)) std::snprintf(text + used, sizeof(text) - used, "]");
}

// Elements of a tensor whose shape was checked.
int64_t count_elements(const reformer_tensor& tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.rank; ++i) count *= tensor.dims[i];
  return count;
}

bool bytes_fit(const reformer_tensor& tensor) {
  int64_t room = std::numeric_limits<int64_t>::max() / bytes_per_element(tensor.dtype);
  for (int32_t i = 0; i < tensor.rank; ++i) {
    if (tensor.dims[i] != 0) room /= tensor.dims[i];
  }
  return room > 0;
}

}  // namespace

int64_t bytes_per_element(int32_t dtype) {
  switch (dtype) {
    case REFORMER_FLOAT32:
    case REFORMER_INT32:
      return 4;
    case REFORMER_FLOAT16:
    case REFORMER_BFLOAT16:
      return 2;
    case REFORMER_INT8:
      return 1;
    default:
      return 0;
  }
}

void Checker::fail(reformer_status status, const char* format, ...) {
  if (!ok()) return;
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  status_ = report(execution_, op_, status, "%s", message);
}

void Checker::execution() {
  if (execution_.error != nullptr && execution_.error_size > 0) execution_.error[0] = '\0';
  attribute("num_workers", execution_.num_workers, 1, REFORMER_MAX_WORKERS);
}

void Checker::attribute(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  fail(REFORMER_ERROR_ATTRIBUTE, "%s is %lld, expected %lld to %lld", name,
       static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high));
}

void Checker::limit(const char* name, int64_t value, int64_t high) {
  if (value <= high) return;
  fail(REFORMER_ERROR_TOO_LARGE, "%s is %lld, expected at most %lld", name,
       static_cast<long long>(value), static_cast<long long>(high));
}

void Checker::floating(const char* name, const reformer_tensor& tensor) {
  if (tensor.dtype == REFORMER_FLOAT32 || tensor.dtype == REFORMER_FLOAT16 ||
      tensor.dtype == REFORMER_BFLOAT16) {
    return;
  }
  fail(REFORMER_ERROR_DTYPE, "%s has dtype %s, expected float32, float16 or bfloat16", name,
       dtype_name(tensor.dtype));
}

void Checker::dtype(const char* name, const reformer_tensor& tensor, int32_t expected) {
  if (tensor.dtype == expected) return;
  fail(REFORMER_ERROR_DTYPE, "%s has dtype %s, expected %s", name, dtype_name(tensor.dtype),
       dtype_name(expected));
}

void Checker::shape(const char* name, const reformer_tensor& tensor,
                    std::initializer_list<int64_t> expected) {
  if (!ok()) return;
  const int32_t rank = static_cast<int32_t>(expected.size());
  if (tensor.rank != rank) {
    fail(REFORMER_ERROR_SHAPE, "%s has rank %d, expected %d", name, tensor.rank, rank);
    return;
  }
  bool same = true;
  int32_t axis = 0;
  for (const int64_t size : expected) {
    const int64_t got = tensor.dims[axis++];
    same = same && got >= 0 && (size == kAny || got == size);
  }
  if (!same) {
    char got[kShapeText];
    char wanted[kShapeText];
    write_shape(tensor.dims, rank, got);
    write_shape(expected.begin(), rank, wanted);
    fail(REFORMER_ERROR_SHAPE, "%s has shape %s, expected %s", name, got, wanted);
  } else if (!bytes_fit(tensor)) {
    fail(REFORMER_ERROR_TOO_LARGE, "%s has more bytes than an int64 can count", name);
  }
}

void Checker::like(const char* name, const reformer_tensor& tensor, const char* model_name,
                   const reformer_tensor& model) {
  if (!ok()) return;
  if (tensor.dtype != model.dtype) {
    fail(REFORMER_ERROR_DTYPE, "%s has dtype %s, expected %s as %s has", name,
         dtype_name(tensor.dtype), dtype_name(model.dtype), model_name);
    return;
  }
  shape(name, tensor, {model.dims[0], model.dims[1], model.dims[2]});
}

void Checker::data(const char* name, const reformer_tensor& tensor) {
  if (!ok() || count_elements(tensor) == 0) return;
  const int64_t bytes = bytes_per_element(tensor.dtype);
  if (tensor.data == nullptr) {
    fail(REFORMER_ERROR_NULL_POINTER, "%s has no data: its pointer is null", name);
  } else if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(bytes) != 0) {
    fail(REFORMER_ERROR_ALIGNMENT, "%s is at an address that is not a multiple of %lld bytes", name,
         static_cast<long long>(bytes));
  }
}

void Checker::disjoint(const char* name, const reformer_tensor& output,
                       std::initializer_list<const reformer_tensor*> inputs) {
  if (!ok()) return;
  const auto begin = [](const reformer_tensor& t) { return reinterpret_cast<uintptr_t>(t.data); };
  const auto bytes = [](const reformer_tensor& t) {
    return static_cast<uintptr_t>(count_elements(t) * bytes_per_element(t.dtype));
  };
  for (const reformer_tensor* input : inputs) {
    const uintptr_t gap = begin(output) >= begin(*input) ? begin(output) - begin(*input)
                                                         : begin(*input) - begin(output);
    const uintptr_t first = begin(output) >= begin(*input) ? bytes(*input) : bytes(output);
    if (bytes(output) != 0 && bytes(*input) != 0 && gap < first) {
      fail(REFORMER_ERROR_OVERLAP, "%s shares memory with an input, expected its own", name);
    }
  }
}

}  // namespace reformer
