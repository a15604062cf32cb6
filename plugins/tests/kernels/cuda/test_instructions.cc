// The emulated instructions do what the PTX ISA and the CUDA C++ guide say.
#include <cmath>

#include "check.h"
#include "draw.h"
#include "half.h"
#include "kernel_runs.h"
#include "kernels/cuda/device/device.h"
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
  check_half<float16>(REFORMER_FLOAT16);
  check_half<bfloat16>(REFORMER_BFLOAT16);
  return FINISH_TEST();
}
