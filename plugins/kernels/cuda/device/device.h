// What device code is written in, whether nvcc compiles it or a host compiler for the emulation
// (REFORMER_CUDA_EMULATION): the only file that includes CUDA's headers.
//
// Code that compiles both ways keeps to these rules: device memory is reached through Global<T>,
// shared memory through dynamic_shared(), blocks and grids have one dimension, a block's size is a
// multiple of 32, and warp collectives take all 32 lanes (kFullWarp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cuda/device/element_types.h"
#include "reformer_kernels.h"

#if defined(REFORMER_CUDA_EMULATION)
#include "cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <tuple>
#endif

#if !defined(REFORMER_CUDA_EMULATION)
namespace reformer::cuda {

// Device memory. The emulation's is a class that checks every access, so it is never qualified with
// __restrict__ or cast.
template <typename T>
using Global = T*;

// A view of device memory whose size the emulation checks.
template <typename T>
Global<T> make_global(T* data, int64_t /*count*/) {
  return data;
}

// An address that is a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ Vector16 load_vector(const T* source) {
  return *reinterpret_cast<const Vector16*>(source);
}
template <typename T>
__device__ __forceinline__ void store_vector(T* target, const Vector16& vector) {
  *reinterpret_cast<Vector16*>(target) = vector;
}

// Whether the address is a multiple of 16 bytes.
template <typename T>
bool is_vector_aligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(Vector16) == 0;
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(float16 value) {
  return __half2float(__ushort_as_half(value.bits));
}
__device__ __forceinline__ float to_float(bfloat16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}

// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ float16 from_float<float16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}

// Two 16-bit elements, `low` in the low half.
template <typename T>
__device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<float16>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ uint32_t pack2<bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// What the host asks of device memory, in the order of a stream, a cudaStream_t. LAUNCH when the
// device refuses.

inline reformer_status status_from_cuda(cudaError_t error) {
  if (error == cudaSuccess) return REFORMER_OK;
  cudaGetLastError();  // reported here, so it must not meet the host's next check as well
  return REFORMER_ERROR_LAUNCH;
}

// Enqueues a copy of `lines` lines of `width` bytes, which begin `pitch` bytes apart.
inline reformer_status copy_lines(void* target, int64_t target_pitch, const void* source,
                                  int64_t source_pitch, int64_t width, int64_t lines,
                                  void* stream) {
  if (width == 0 || lines == 0) return REFORMER_OK;
  const cudaStream_t order = static_cast<cudaStream_t>(stream);
  const size_t bytes = static_cast<size_t>(width);
  if (lines == 1) {  // whose pitches do not matter: they may be more than a copy takes
    return status_from_cuda(
        cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, order));
  }
  return status_from_cuda(cudaMemcpy2DAsync(
      target, static_cast<size_t>(target_pitch), source, static_cast<size_t>(source_pitch), bytes,
      static_cast<size_t>(lines), cudaMemcpyDeviceToDevice, order));
}

// Enqueues making every byte `value`.
inline reformer_status fill_bytes(void* target, int value, int64_t bytes, void* stream) {
  if (bytes == 0) return REFORMER_OK;
  return status_from_cuda(cudaMemsetAsync(target, value, static_cast<size_t>(bytes),
                                          static_cast<cudaStream_t>(stream)));
}

// Copies to the host, and waits for that and for all that the stream had to do before.
inline reformer_status read_back(void* host, const void* device, int64_t bytes, void* stream) {
  const cudaStream_t order = static_cast<cudaStream_t>(stream);
  const auto status = status_from_cuda(
      cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, order));
  return status != REFORMER_OK ? status : status_from_cuda(cudaStreamSynchronize(order));
}

#if defined(__CUDACC__)

// The block's shared memory, aligned to 128 bytes. There is no other kind: static arrays could
// neither be poisoned nor bounds-checked by the emulation.
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(128) char reformer_dynamic_shared[];
  return reformer_dynamic_shared;
}

// Enqueues `grid` blocks of `block` threads with `shared_bytes` of dynamic shared memory on
// `stream`, a cudaStream_t. No block, no launch. TOO_LARGE beyond 2^31-1 blocks, LAUNCH when the
// device refuses.
template <typename... Params, typename... Args>
reformer_status launch(void (*kernel)(Params...), int64_t grid, unsigned block, size_t shared_bytes,
                       void* stream, Args... args) {
  constexpr size_t kSharedWithoutAsking = 48 * 1024;  // bytes, on every architecture
  if (grid == 0) return REFORMER_OK;
  if (grid > std::numeric_limits<int32_t>::max()) return REFORMER_ERROR_TOO_LARGE;
  const void* function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kSharedWithoutAsking) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    std::tuple<Params...> values(args...);
    error = std::apply(
        [&](Params&... value) {
          void* pointers[] = {&value...};
          return cudaLaunchKernel(function, dim3(static_cast<unsigned>(grid)), dim3(block),
                                  pointers, shared_bytes, static_cast<cudaStream_t>(stream));
        },
        values);
  }
  return status_from_cuda(error);
}

#endif  // __CUDACC__

}  // namespace reformer::cuda
#endif  // REFORMER_CUDA_EMULATION

namespace reformer::cuda {

// A tensor's elements. The tensor was checked, so its count fits.
template <typename T>
Global<T> view_global(const reformer_tensor& tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.rank; ++i) count *= tensor.dims[i];
  return make_global(static_cast<T*>(tensor.data), count);
}

}  // namespace reformer::cuda
