// warp.cuh for the emulation, by the PTX ISA's description of each instruction.
#pragma once

#include <cstdint>
#include <cstring>

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

struct Fragments {
  float d[4];
  uint32_t a[4];
  uint32_t b[2];
};

template <typename T>
float element(uint32_t pair, int index) {
  return to_float(T{static_cast<uint16_t>(index == 0 ? pair : pair >> 16)});
}

template <typename T>
void multiply_fragments(const void* const* in, void* const* out) {
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Fragments& own = *static_cast<const Fragments*>(in[lane]);
    const int group = lane / 4;
    for (int e = 0; e < 2; ++e) {
      const int pair = 2 * (lane % 4) + e;
      a[group][pair] = element<T>(own.a[0], e);
      a[group + 8][pair] = element<T>(own.a[1], e);
      a[group][pair + 8] = element<T>(own.a[2], e);
      a[group + 8][pair + 8] = element<T>(own.a[3], e);
      b[pair][group] = element<T>(own.b[0], e);
      b[pair + 8][group] = element<T>(own.b[1], e);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const float* own = static_cast<const Fragments*>(in[lane])->d;
    for (int i = 0; i < 4; ++i) d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = own[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* own = static_cast<float*>(out[lane]);
    for (int i = 0; i < 4; ++i) own[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

}  // namespace emulation

template <typename T>
Global<T> offset_rows(const Global<T>& base, int32_t row, int32_t width_bytes) {
  return base + static_cast<int64_t>(row) * (width_bytes / static_cast<int32_t>(sizeof(T)));
}

inline void forget_origin(uint32_t& /*value*/) {}

inline float exp2_approximate(float x) {
  const float result = std::exp2(x);
  return result < std::numeric_limits<float>::min() ? 0.0f : result;
}

template <typename T>
void copy_async_16(void* target, const Global<T>& source, bool valid,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::demand_aligned({file, line}, target, "the target of an asynchronous copy");
  emulation::start_copy(target, valid ? load_vector(source) : Vector16{});
}

inline void commit_copies() { emulation::close_copy_group(); }

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

template <typename T>
void multiply_add_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulation::Fragments own;
  std::memcpy(own.d, d, sizeof(d));
  std::memcpy(own.a, a, sizeof(a));
  std::memcpy(own.b, b, sizeof(b));
  emulation::warp_collective({file, line}, "mma", &own, d, emulation::multiply_fragments<T>);
}

}  // namespace reformer::cuda
