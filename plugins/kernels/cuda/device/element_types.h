// Storage types and constants that device code shares with the emulation of the device.
#pragma once

#include <cstdint>
#include <limits>

namespace reformer::cuda {

constexpr unsigned kFullWarp = 0xFFFFFFFFu;
constexpr int kWarpSize = 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Storage of the 16-bit element types.
struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

// 16 bytes that move as one.
struct alignas(16) Vector16 {
  uint32_t words[4];
};

}  // namespace reformer::cuda
