// What every operator's host side does: lay out the workspace, check what only CUDA limits, put
// refusals into words.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>

#include "kernels/common/arena.h"
#include "kernels/common/dispatch.h"
#include "kernels/common/sizes.h"
#include "kernels/common/validation.h"
#include "kernels/cuda/device/device.h"
#include "reformer_kernels.h"

namespace reformer::cuda {

constexpr size_t kWorkspaceAlignment = 256;  // bytes; what cudaMalloc gives

// The workspace's arrays on the device. check() must hold before anything touches them.
class DeviceArena {
 public:
  // A null workspace is for measuring.
  explicit DeviceArena(void* workspace) : arena_(workspace, kWorkspaceAlignment) {}

  template <typename T>
  Global<T> allocate(std::initializer_list<int64_t> shape) {
    const int64_t count = multiply_sizes(shape);
    if (count > kMaxBytes / static_cast<int64_t>(sizeof(T))) too_large_ = true;
    if (too_large_) return nullptr;
    Global<T> array = make_global(arena_.allocate<T>(static_cast<size_t>(count)), count);
    if (arena_.used() > static_cast<size_t>(kMaxBytes)) too_large_ = true;
    return array;
  }

  // Memory for what another operator's call needs, at its address.
  void* reserve(int64_t bytes) {
    if (bytes > kMaxBytes) too_large_ = true;
    if (too_large_) return nullptr;
    void* address = arena_.allocate<char>(static_cast<size_t>(bytes));
    if (arena_.used() > static_cast<size_t>(kMaxBytes)) too_large_ = true;
    return address;
  }

  // Bytes to ask for; TOO_LARGE when no int64 counts them.
  reformer_status measure(const char* op, const reformer_execution& execution,
                          uint64_t* bytes) const {
    if (too_large_) {
      return report(execution, op, REFORMER_ERROR_TOO_LARGE,
                    "the workspace has more bytes than an int64 can count");
    }
    *bytes = arena_.size();
    return REFORMER_OK;
  }

  // Whether the call's workspace holds all arrays.
  reformer_status check(const char* op, const reformer_execution& execution) const {
    uint64_t needed = 0;
    if (const auto status = measure(op, execution, &needed)) return status;
    return check_workspace(op, execution, needed);
  }

 private:
  static constexpr int64_t kMaxBytes = int64_t{1} << 61;

  WorkspaceArena arena_;
  bool too_large_ = false;
};

// What the kernels ask of sizes that the operators themselves leave open: a head's row fits
// registers and shared memory, a token's row an int32.
inline reformer_status check_device_limits(const char* op, const reformer_execution& execution,
                                           int64_t heads, int64_t head_size) {
  if (head_size > REFORMER_CUDA_MAX_HEAD_SIZE) {
    return report(execution, op, REFORMER_ERROR_SHAPE,
                  "head size is %lld, expected at most %d on CUDA: use the CPU kernels",
                  static_cast<long long>(head_size), REFORMER_CUDA_MAX_HEAD_SIZE);
  }
  constexpr int64_t kMaxWidth = std::numeric_limits<int32_t>::max();
  if (multiply_sizes({heads, head_size}) > kMaxWidth) {
    return report(execution, op, REFORMER_ERROR_TOO_LARGE,
                  "num_heads times head size is %lld, expected at most %lld",
                  static_cast<long long>(heads * head_size), static_cast<long long>(kMaxWidth));
  }
  return REFORMER_OK;
}

// Whether a head's rows, which follow one another from `data` on, start at multiples of 16 bytes.
template <typename T>
bool has_vector_rows(const Global<T>& data, int64_t head_size) {
  const int64_t row_bytes = head_size * static_cast<int64_t>(sizeof(T));
  return is_vector_aligned(data) && row_bytes % static_cast<int64_t>(sizeof(Vector16)) == 0;
}

// A status of a launch, put into words.
inline reformer_status report_launch(const char* op, const reformer_execution& execution,
                                     reformer_status status) {
  switch (status) {
    case REFORMER_OK:
      return status;
    case REFORMER_ERROR_TOO_LARGE:
      return report(execution, op, status,
                    "the call needs more than 2147483647 blocks: split the batch");
    default:
      return report(execution, op, status,
                    "the device refused a kernel: expected a supported GPU with free resources");
  }
}

}  // namespace reformer::cuda
