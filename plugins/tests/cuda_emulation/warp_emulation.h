// warp.cuh for the emulation, by the PTX ISA's description of each instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cuda_emulation.h"

namespace reformer::cuda {

namespace emulation {

inline void demand_aligned(Site site, const void* address, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(Vector16) != 0) {
    fail(site, "%s at an address that is not a multiple of 16 bytes", what);
  }
}

struct MatrixRow {
  uint16_t elements[8];
};

// Each lane reads its row as it comes, so that rows other lanes have yet to write show as poison.
inline MatrixRow read_row(Site site, const void* address) {
  demand_aligned(site, address, "ldmatrix");
  MatrixRow row;
  std::memcpy(&row, address, sizeof(row));
  return row;
}

// Row `row` of matrix `matrix`, which lane 8 * matrix + row brought.
inline const uint16_t* row_of(const void* const* in, int matrix, int row) {
  return static_cast<const MatrixRow*>(in[8 * matrix + row])->elements;
}

template <bool kTransposed>
void distribute_matrices(const void* const* in, void* const* out) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int group = lane / 4;
    const int pair = 2 * (lane % 4);
    uint32_t* result = static_cast<uint32_t*>(out[lane]);
    for (int m = 0; m < 4; ++m) {
      const uint32_t low = kTransposed ? row_of(in, m, pair)[group] : row_of(in, m, group)[pair];
      const uint32_t high =
          kTransposed ? row_of(in, m, pair + 1)[group] : row_of(in, m, group)[pair + 1];
      result[m] = low | (high << 16);
    }
  }
}

// What a lane brings to a matrix step; a step of 16-bit elements with 8 of them along the sum has
// only a[0], a[1] and b[0].
struct Fragments {
  float d[4];
  uint32_t a[4];
  uint32_t b[2];
};

struct Tf32 {};

template <typename T>
constexpr int kRegisterElements = 2;
template <>
inline constexpr int kRegisterElements<Tf32> = 1;

// Element `index` of a register; of TF32, the lowest 13 bits are ignored.
template <typename T>
double element(uint32_t bits, int index) {
  if constexpr (std::is_same_v<T, Tf32>) {
    return static_cast<double>(float_of(bits & ~uint32_t{0x1FFF}));
  } else {
    return static_cast<double>(to_float(T{static_cast<uint16_t>(index == 0 ? bits : bits >> 16)}));
  }
}

// To float32, towards zero.
inline float truncate(double value) {
  const float nearest = static_cast<float>(value);
  const bool away = std::fabs(static_cast<double>(nearest)) > std::fabs(value);
  return away ? std::nextafter(nearest, 0.0f) : nearest;
}

// A lane's sum and its products: in TF32, where float32's accuracy is at stake, exact and then
// rounded towards zero as the device does; of 16-bit elements, rounded to nearest with each
// product.
template <typename T>
float add_products(float sum, const double* a, const double (*b)[8], int column, int count) {
  if constexpr (std::is_same_v<T, Tf32>) {
    double exact = static_cast<double>(sum);
    for (int k = 0; k < count; ++k) exact += a[k] * b[k][column];
    return truncate(exact);
  } else {
    for (int k = 0; k < count; ++k)
      sum += static_cast<float>(a[k]) * static_cast<float>(b[k][column]);
    return sum;
  }
}

// d += a * b, over kHalves halves of the sum's elements.
template <typename T, int kHalves>
void multiply_fragments(const void* const* in, void* const* out) {
  constexpr int kElements = kRegisterElements<T>;
  constexpr int kHalf = 4 * kElements;  // elements of a half
  double a[16][kHalves * kHalf];
  double b[kHalves * kHalf][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Fragments& own = *static_cast<const Fragments*>(in[lane]);
    for (int half = 0; half < kHalves; ++half) {
      for (int e = 0; e < kElements; ++e) {
        const int k = kHalf * half + kElements * (lane % 4) + e;
        a[lane / 4][k] = element<T>(own.a[2 * half], e);
        a[lane / 4 + 8][k] = element<T>(own.a[2 * half + 1], e);
        b[k][lane / 4] = element<T>(own.b[half], e);
      }
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const float* own = static_cast<const Fragments*>(in[lane])->d;
    float* result = static_cast<float*>(out[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2);
      const int column = 2 * (lane % 4) + i % 2;
      result[i] = add_products<T>(own[i], a[row], b, column, kHalves * kHalf);
    }
  }
}

template <typename T, int kHalves>
void multiply_step(Site site, float (&d)[4], const uint32_t* a, const uint32_t* b) {
  Fragments own{};
  std::memcpy(own.d, d, sizeof(d));
  std::memcpy(own.a, a, 2 * kHalves * sizeof(*a));
  std::memcpy(own.b, b, kHalves * sizeof(*b));
  warp_collective(site, "mma", &own, d, multiply_fragments<T, kHalves>);
}

inline void demand_ampere(Site site, const char* what) {
  if (turing) fail(site, "%s on Turing, which has none", what);
}

}  // namespace emulation

template <typename T>
Global<T> offset_rows(const Global<T>& base, int32_t row, int32_t width_bytes) {
  return base + static_cast<int64_t>(row) * (width_bytes / static_cast<int32_t>(sizeof(T)));
}

inline int64_t multiply_wide(int32_t a, int32_t b) { return int64_t{a} * b; }

inline void forget_origin(uint32_t& /*value*/) {}

inline float exp2_approximate(float x) {
  const float result = std::exp2(x);
  return result < std::numeric_limits<float>::min() ? 0.0f : result;
}

constexpr bool kForTuring = false;  // what bounds registers, which are not emulated
inline bool is_turing() { return emulation::turing; }

template <typename T>
void copy_async_16(void* target, const Global<T>& source, bool valid,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::demand_aligned({file, line}, target, "the target of an asynchronous copy");
  const Vector16 bytes = valid ? load_vector(source) : Vector16{};
  if (is_turing()) {
    std::memcpy(target, &bytes, sizeof(bytes));
  } else {
    emulation::start_copy(target, bytes);
  }
}

inline void commit_copies() {
  if (!is_turing()) emulation::close_copy_group();
}

template <int kPending>
void wait_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::is_omitted({file, line})) emulation::finish_copies(kPending);
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* row_address,
                           const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const emulation::MatrixRow row = emulation::read_row({file, line}, row_address);
  emulation::warp_collective({file, line}, "ldmatrix", &row, r,
                             emulation::distribute_matrices<false>);
}

inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row_address,
                                      const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
  const emulation::MatrixRow row = emulation::read_row({file, line}, row_address);
  emulation::warp_collective({file, line}, "ldmatrix.trans", &row, r,
                             emulation::distribute_matrices<true>);
}

inline void multiply_16x8x8_float16(float (&d)[4], const uint32_t (&a)[2], uint32_t b,
                                    const char* file = __builtin_FILE(),
                                    int line = __builtin_LINE()) {
  emulation::multiply_step<float16, 1>({file, line}, d, a, &b);
}

template <typename T>
void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::demand_ampere({file, line}, "a matrix step of 16 x 8 x 16");
  emulation::multiply_step<T, 2>({file, line}, d, a, b);
}

inline void multiply_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::demand_ampere({file, line}, "a matrix step of TF32");
  emulation::multiply_step<emulation::Tf32, 2>({file, line}, d, a, b);
}

}  // namespace reformer::cuda
