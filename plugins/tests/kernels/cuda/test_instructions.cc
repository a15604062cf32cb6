// The emulated instructions do what the PTX ISA and the CUDA C++ guide say.
#include <cmath>

#include "check.h"
#include "child.h"
#include "control.h"
#include "draw.h"
#include "half.h"
#include "kernel_runs.h"
#include "kernels/cuda/device/device.h"
#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/device/warp.cuh"

namespace reformer::cuda {
namespace {

__global__ void shuffle(Global<int32_t> target) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned before = __shfl_up_sync(kFullWarp, threadIdx.x, 3);
  target[lane] = __shfl_xor_sync(kFullWarp, lane, 5);
  target[32 + lane] = static_cast<int32_t>(before);
  target[64 + lane] = __shfl_sync(kFullWarp, lane, (lane * 7) % 32);
  target[96 + lane] = static_cast<int32_t>(__ballot_sync(kFullWarp, lane % 3 == 0));
  target[128 + lane] = static_cast<int32_t>(__match_any_sync(kFullWarp, lane % 5));
  target[160 + lane] = __shfl_down_sync(kFullWarp, lane, 30);
}

void check_collectives() {
  std::vector<int32_t> target(192);
  CHECK(run(shuffle, 1, 32, 0, view(target)), "launch");
  uint32_t thirds = 0;
  for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t same = 0;
    for (int other = lane % 5; other < 32; other += 5) same |= 1u << other;
    const auto at = [&](int row) { return target[static_cast<size_t>(32 * row + lane)]; };
    CHECK(at(0) == (lane ^ 5), "xor, lane %d", lane);
    CHECK(at(1) == (lane < 3 ? lane : lane - 3), "up, lane %d", lane);
    CHECK(at(2) == (lane * 7) % 32, "indexed, lane %d", lane);
    CHECK(static_cast<uint32_t>(at(3)) == thirds, "ballot, lane %d", lane);
    CHECK(static_cast<uint32_t>(at(4)) == same, "match, lane %d", lane);
    CHECK(at(5) == (lane < 2 ? lane + 30 : lane), "down, lane %d", lane);
  }
}

// D = A * B by ldmatrix and mma. A [16, 16]; B [8, 16], or [16, 8] when transposed.
template <typename T, bool kTransposed>
__global__ void multiply(Global<const T> a, Global<const T> b, Global<float> d) {
  T* shared_a = reinterpret_cast<T*>(dynamic_shared());
  T* shared_b = shared_a + 256;
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared_a[i] = a[i];
  for (int i = lane; i < 128; i += 32) shared_b[i] = b[i];
  __syncwarp();
  uint32_t fragment_a[4];
  load_matrix_x4(fragment_a, shared_a + lane % 16 * 16 + lane / 16 * 8);
  uint32_t pieces[4];
  if constexpr (kTransposed) {
    load_matrix_x4_transposed(pieces, shared_b + lane % 16 * 8);
  } else {
    load_matrix_x4(pieces, shared_b + lane % 8 * 16 + lane / 8 % 2 * 8);
  }
  const uint32_t fragment_b[2] = {pieces[0], pieces[1]};
  float sums[4] = {1, 2, 3, 4};
  multiply_add_16x8x16<T>(sums, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    d[row * 8 + lane % 4 * 2 + i % 2] = sums[i] - static_cast<float>(i + 1);
  }
}

template <typename T, bool kTransposed>
void check_multiply() {
  test::Random random(9);
  std::vector<T> a(256);
  std::vector<T> b(128);
  for (T& x : a) x = from_float<T>(static_cast<float>(test::draw_int(random, -9, 9)));
  for (T& x : b) x = from_float<T>(static_cast<float>(test::draw_int(random, -9, 9)));
  std::vector<float> d(128);
  CHECK(run(multiply<T, kTransposed>, 1, 32, 768, Global<const T>(view(a)),
            Global<const T>(view(b)), view(d)),
        "launch");
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      float expected = 0;
      for (size_t k = 0; k < 16; ++k) {
        expected += to_float(a[row * 16 + k]) *
                    to_float(kTransposed ? b[k * 8 + column] : b[column * 16 + k]);
      }
      const float got = d[row * 8 + column];
      CHECK(got == expected, "row %zu, column %zu: %g, expected %g", row, column,
            static_cast<double>(got), static_cast<double>(expected));
    }
  }
}

// A step of TF32, or of split operands: A [16, 8], B [8, 8], D [16, 8], float32.
__global__ void multiply_float32(Global<const float> a, Global<const float> b, Global<float> d,
                                 bool split) {
  const int lane = static_cast<int>(threadIdx.x);
  const int group = lane / 4, t = lane % 4;
  const float own_a[4] = {a[8 * group + t], a[8 * group + 64 + t], a[8 * group + t + 4],
                          a[8 * group + 64 + t + 4]};
  const float own_b[2] = {b[8 * t + group], b[8 * t + 32 + group]};
  float sums[4] = {}, corrections[4] = {};
  if (split) {
    multiply_add_16x8x8(sums, corrections, split_operand(own_a), split_operand(own_b));
  } else {
    const uint32_t bits_a[4] = {__float_as_uint(own_a[0]), __float_as_uint(own_a[1]),
                                __float_as_uint(own_a[2]), __float_as_uint(own_a[3])};
    const uint32_t bits_b[2] = {__float_as_uint(own_b[0]), __float_as_uint(own_b[1])};
    multiply_16x8x8_tf32(sums, bits_a, bits_b);
  }
  for (int i = 0; i < 4; ++i) {
    d[8 * (group + i / 2 * 8) + 2 * t + i % 2] = sums[i] + corrections[i];
  }
}

// A step of TF32 sees 11 bits of its operands; split operands keep float32's accuracy.
void check_float32(bool split) {
  test::Random random(5);
  std::vector<float> a = test::draw_values(random, REFORMER_FLOAT32, 128, 1.0f);
  std::vector<float> b = test::draw_values(random, REFORMER_FLOAT32, 64, 1.0f);
  std::vector<float> d(128);
  CHECK(run(multiply_float32, 1, 32, 0, Global<const float>(view(a)), Global<const float>(view(b)),
            view(d), split),
        "launch");
  const auto seen = [&](float x) {
    return static_cast<double>(split ? x : __uint_as_float(__float_as_uint(x) & 0xFFFFE000u));
  };
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      double expected = 0, magnitude = 0;
      for (size_t k = 0; k < 8; ++k) {
        const double product = seen(a[8 * row + k]) * seen(b[8 * k + column]);
        expected += product;
        magnitude += std::fabs(product);
      }
      const double error = std::fabs(static_cast<double>(d[8 * row + column]) - expected);
      CHECK(error <= magnitude * (split ? 0x1p-21 : 0x1p-23), "row %zu, column %zu: error %g", row,
            column, error);
    }
  }
}

// What split_float promises, and that it is no more than TF32 has.
void check_split() {
  test::Random random(6);
  for (const float value : test::draw_values(random, REFORMER_FLOAT32, 100000, 1.0f)) {
    const float x = std::ldexp(value, static_cast<int>(test::draw_int(random, -90, 90)));
    const SplitFloat split = split_float(x);
    const double big = static_cast<double>(__uint_as_float(split.big));
    const double small = static_cast<double>(__uint_as_float(split.small & 0xFFFFE000u));
    const double size = std::fabs(static_cast<double>(x));
    CHECK((split.big & 0x1FFF) == 0, "%g: a big part of more than 11 bits", size);
    CHECK(std::fabs(static_cast<double>(x) - big) <= size * 0x1p-11, "%g is not rounded", size);
    CHECK(std::fabs(static_cast<double>(x) - big - small) <= size * 0x1p-23, "%g loses bits", size);
  }
}

// On Turing there are neither TF32 nor steps of 16 elements, and everything else works.
void check_turing() {
  emulation::emulate_turing(true);
  check_multiply<float16, false>();
  check_multiply<float16, true>();
  check_multiply<bfloat16, false>();
  check_float32(true);
  CHECK(!test::survives([] {
    check_float32(false);
    return true;
  }),
        "a step of TF32");
  const SplitFloat split = split_float(0.1f);
  CHECK(split.big == __float_as_uint(0.1f) && split.small == 0, "nothing is split");
  emulation::emulate_turing(false);
}

template <typename T>
void check_half(int32_t dtype) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const T half{static_cast<uint16_t>(bits)};
    const float value = to_float(half);
    const uint16_t back = from_float<T>(value).bits;
    if (std::isnan(value)) {
      CHECK(std::isnan(to_float(T{back})), "NaN %04x became %04x", bits, back);
    } else {
      CHECK(back == bits, "%04x became %04x", bits, back);
    }
    if (!std::isfinite(value)) continue;
    CHECK(value == test::float_from_half(dtype, half.bits), "%04x is %g", bits,
          static_cast<double>(value));
    // Numbers between this one and the next, the middle included, round to nearest even.
    const float next = to_float(T{static_cast<uint16_t>(bits + 1)});
    if (!std::isfinite(next)) continue;
    for (const float part : {0.25f, 0.5f, 0.75f}) {
      const float between = value + part * (next - value);
      CHECK(from_float<T>(between).bits == test::half_from_float(dtype, between), "%g",
            static_cast<double>(between));
    }
  }
  CHECK(pack2<T>(1.0f, -2.0f) ==
            (from_float<T>(1.0f).bits | uint32_t{from_float<T>(-2.0f).bits} << 16),
        "the low half comes first");
}

}  // namespace
}  // namespace reformer::cuda

int main() {
  using namespace reformer::cuda;
  check_collectives();
  check_multiply<float16, false>();
  check_multiply<float16, true>();
  check_multiply<bfloat16, false>();
  check_multiply<bfloat16, true>();
  check_float32(false);
  check_float32(true);
  check_split();
  check_turing();
  check_half<float16>(REFORMER_FLOAT16);
  check_half<bfloat16>(REFORMER_BFLOAT16);
  return FINISH_TEST();
}
