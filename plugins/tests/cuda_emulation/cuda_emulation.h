// The part of CUDA that the kernels use, on the CPU: see scheduler.h for how it runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "global_pointer.h"
#include "half_types.h"
#include "kernels/cuda/device/element_types.h"
#include "reformer_kernels.h"
#include "scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

namespace reformer::cuda {

inline const emulation::Index& threadIdx = emulation::place.thread_index;
inline const emulation::Index& blockIdx = emulation::place.block_index;
inline const emulation::Index& blockDim = emulation::place.block;
inline const emulation::Index& gridDim = emulation::place.grid;

inline char* dynamic_shared() { return emulation::shared_memory(); }

template <typename... Params, typename... Args>
reformer_status launch(void (*kernel)(Params...), int64_t grid, unsigned block, size_t shared_bytes,
                       void* stream, Args... args) {
  if (grid == 0) return REFORMER_OK;
  if (grid > std::numeric_limits<int32_t>::max()) return REFORMER_ERROR_TOO_LARGE;
  const bool accepted = emulation::run_grid(static_cast<unsigned>(grid), block, shared_bytes,
                                            stream, [&] { kernel(args...); });
  return accepted ? REFORMER_OK : REFORMER_ERROR_LAUNCH;
}

inline reformer_status copy_lines(void* target, int64_t target_pitch, const void* source,
                                  int64_t source_pitch, int64_t width, int64_t lines,
                                  void* stream) {
  if (width == 0 || lines == 0) return REFORMER_OK;
  if (!emulation::accepts_work(stream)) return REFORMER_ERROR_LAUNCH;
  for (int64_t i = 0; i < lines; ++i) {
    std::memcpy(static_cast<char*>(target) + i * target_pitch,
                static_cast<const char*>(source) + i * source_pitch, static_cast<size_t>(width));
  }
  return REFORMER_OK;
}

inline reformer_status fill_bytes(void* target, int value, int64_t bytes, void* stream) {
  if (bytes == 0) return REFORMER_OK;
  if (!emulation::accepts_work(stream)) return REFORMER_ERROR_LAUNCH;
  std::memset(target, value, static_cast<size_t>(bytes));
  return REFORMER_OK;
}

inline reformer_status read_back(void* host, const void* device, int64_t bytes, void* stream) {
  if (!emulation::accepts_work(stream)) return REFORMER_ERROR_LAUNCH;
  emulation::note_read_back();
  std::memcpy(host, device, static_cast<size_t>(bytes));
  return REFORMER_OK;
}

// The default arguments are the caller's place.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::is_omitted({file, line})) emulation::block_barrier({file, line});
}

using std::max;
using std::min;

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

// One thread runs at a time, so a plain update is atomic.
template <typename T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target = static_cast<T>(before + value);
  return before;
}
template <typename T>
T atomicMax(T* target, T value) {
  const T before = *target;
  *target = std::max(before, value);
  return before;
}

}  // namespace reformer::cuda

#include "warp_collectives.h"
