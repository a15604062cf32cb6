// Instructions that CUDA C++ has no function for: asynchronous copies, ldmatrix, mma. The emulation
// has the same functions, written out by the PTX ISA's description. What Turing (compute capability
// 7.5) lacks is left out there by __CUDA_ARCH__, here and nowhere else; products.cuh makes up for
// it.
#pragma once

#include <type_traits>

#include "kernels/cuda/device/device.h"

#if defined(REFORMER_CUDA_EMULATION)
#include "warp_emulation.h"
#else

namespace reformer::cuda {

// Whether the code is compiled for Turing: no asynchronous copies, and of the matrix steps only
// float16's of 16 x 8 x 8.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kForTuring = true;
#else
constexpr bool kForTuring = false;
#endif
__device__ __forceinline__ constexpr bool is_turing() { return kForTuring; }

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Keeps the compiler from computing ahead of time what follows from `value`: addresses hoisted out
// of a loop would take registers that its products need.
__device__ __forceinline__ void forget_origin(uint32_t& value) { asm volatile("" : "+r"(value)); }

// Product of two numbers that are not negative, as one instruction.
__device__ __forceinline__ int64_t multiply_wide(int32_t a, int32_t b) {
  int64_t product;  // written out, because a product of two int32 becomes one of two int64
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

// base + row * width as one instruction; `width_bytes`, not negative, is a row's elements times
// their size. The address of a negative row must not be used.
template <typename T>
__device__ __forceinline__ T* offset_rows(T* base, int32_t row, int32_t width_bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) + multiply_wide(row, width_bytes));
}

// 2^x to about 2 units in the last place; results below 2^-126 become 0.
__device__ __forceinline__ float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Starts a copy of 16 bytes to shared memory; zeros when not valid, and `source` is not read. Both
// addresses are multiples of 16 bytes. On Turing the copy is done when this returns, and there is
// nothing to wait for: other threads need their barrier all the same.
template <typename T>
__device__ __forceinline__ void copy_async_16(void* target, const T* source, bool valid) {
#if __CUDA_ARCH__ >= 800
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)),
               "l"(source), "r"(bytes)
               : "memory");
#else
  *static_cast<Vector16*>(target) = valid ? load_vector(source) : Vector16{};
#endif
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's latest groups are under way. Other threads see the
// bytes after a barrier.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Loads four 8 x 8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of matrix
// l / 8, a multiple of 16 bytes; r[m] gets elements 2 * (lane % 4) and the next of row lane / 4 of
// matrix m.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row_address))
               : "memory");
}

// The same of the transposed matrices: r[m] gets rows 2 * (lane % 4) and the next of column
// lane / 4.
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4],
                                                          const void* row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row_address))
               : "memory");
}

// Matrix steps on tensor cores, d += a * b, D 16 x 8. With g = lane / 4 and t = lane % 4 a lane has
//   d[0], d[1] of row g, d[2], d[3] of row g + 8, columns 2t and the next
// The sum of exact products and d is rounded towards zero.

// float16, A 16 x 8, B 8 x 8, as pairs (2t, 2t + 1): a[0] row g, a[1] row g + 8; b column g.
__device__ __forceinline__ void multiply_16x8x8_float16(float (&d)[4], const uint32_t (&a)[2],
                                                        uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// 16-bit elements, A 16 x 16, B 16 x 8, as pairs (2t, 2t + 1); not on Turing.
//   a[0] row g, a[1] row g + 8, columns 2t..; a[2], a[3] the same rows, columns 8 + 2t..
//   b[0] rows 2t.., b[1] rows 8 + 2t.., column g
template <typename T>
__device__ __forceinline__ void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  __trap();
#endif
}

// TF32, A 16 x 8, B 8 x 8, float32's bits of which the lowest 13 are ignored; not on Turing.
//   a[0] row g, a[1] row g + 8, column t; a[2], a[3] the same rows, column t + 4
//   b[0] row t, b[1] row t + 4, column g
__device__ __forceinline__ void multiply_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

}  // namespace reformer::cuda
#endif  // REFORMER_CUDA_EMULATION
