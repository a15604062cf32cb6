#include "tile_emulation.h"

#include <cstring>

#include "half.h"
#include "hwy/base.h"

namespace reformer::test {
namespace {

#include "kernels/cpu/linear/tiles-inl.h"

constexpr size_t kRows = 16;
constexpr size_t kRowBytes = 64;

// Eight tiles; none holds anything before it is configured, nor after it is released.
struct Tile {
  uint8_t bytes[kRows][kRowBytes];
};
thread_local Tile tiles[8];
thread_local bool is_configured = false;

struct EmulatedTiles {
  static void configure() { is_configured = true; }
  static void release() {
    is_configured = false;
    std::memset(static_cast<void*>(tiles), 0xFF, sizeof(tiles));
  }
  template <int kTile>
  static void zero() {
    std::memset(static_cast<void*>(&tiles[kTile]), 0, sizeof(Tile));
  }
  template <int kTile>
  static void load(const uint8_t* source, size_t stride) {
    if (!is_configured) return;
    for (size_t r = 0; r < kRows; ++r) {
      std::memcpy(tiles[kTile].bytes[r], source + r * stride, kRowBytes);
    }
  }
  template <int kTile>
  static void store(uint8_t* target, size_t stride) {
    for (size_t r = 0; r < kRows; ++r) {
      std::memcpy(target + r * stride, tiles[kTile].bytes[r], kRowBytes);
    }
  }

  // sum[m][n] += the products of word k of row m and word n of the outputs' row k.
  template <typename Sum, typename Multiply>
  static void add_words(Tile& sums, const Tile& rows, const Tile& outputs,
                        const Multiply& multiply) {
    for (size_t m = 0; m < kRows; ++m) {
      for (size_t n = 0; n < kRowBytes / kWordBytes; ++n) {
        Sum sum;
        std::memcpy(&sum, sums.bytes[m] + n * kWordBytes, sizeof(sum));
        for (size_t k = 0; k < kRows; ++k) {
          sum += multiply(rows.bytes[m] + k * kWordBytes, outputs.bytes[k] + n * kWordBytes);
        }
        std::memcpy(sums.bytes[m] + n * kWordBytes, &sum, sizeof(sum));
      }
    }
  }
};

struct Int8Tiles : EmulatedTiles {
  template <int kSum, int kRowTile, int kOutputs>
  static void add_products() {
    add_words<int32_t>(tiles[kSum], tiles[kRowTile], tiles[kOutputs],
                       [](const uint8_t* a, const uint8_t* b) {
                         int32_t sum = 0;
                         for (size_t i = 0; i < 4; ++i) {
                           sum += static_cast<int8_t>(a[i]) * static_cast<int8_t>(b[i]);
                         }
                         return sum;
                       });
  }
};

float read_bfloat16(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

struct BFloat16Tiles : EmulatedTiles {
  template <int kSum, int kRowTile, int kOutputs>
  static void add_products() {
    add_words<float>(
        tiles[kSum], tiles[kRowTile], tiles[kOutputs], [](const uint8_t* a, const uint8_t* b) {
          return read_bfloat16(a) * read_bfloat16(b) + read_bfloat16(a + 2) * read_bfloat16(b + 2);
        });
  }
};

}  // namespace

const Products kEmulatedInt8Tiles = {
    "emulated tiles", REFORMER_INT8, RowFormat::kAsWeight,
    [](const ProductsJob& job) { multiply_all_tiles<Int8Tiles>(job); }};
const Products kEmulatedBFloat16Tiles = {
    "emulated tiles", REFORMER_BFLOAT16, RowFormat::kAsWeight,
    [](const ProductsJob& job) { multiply_all_tiles<BFloat16Tiles>(job); }};

}  // namespace reformer::test
