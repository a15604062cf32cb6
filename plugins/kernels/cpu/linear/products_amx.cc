// Products of tiles: AMX.
#if defined(__x86_64__) && defined(__GNUC__)
#include "hwy/base.h"
#include "kernels/cpu/linear/products.h"

namespace reformer {
namespace {

#include "kernels/cpu/linear/tiles-inl.h"

// Palette 1: eight tiles, all of 16 rows of 64 bytes (Intel's manual, volume 1, TILECFG).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// The compiler's own names for these take a tile's number as a literal only, not as a template's.
struct AmxTiles {
  static HWY_INLINE void configure() {
    static constexpr TileConfig kConfig;
    asm volatile("ldtilecfg %0" ::"m"(kConfig));
  }
  // Whoever else uses tiles in this thread finds none of ours.
  static HWY_INLINE void release() { asm volatile("tilerelease"); }
  template <int kTile>
  static HWY_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static HWY_INLINE void load(const uint8_t* source, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static HWY_INLINE void store(uint8_t* target, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(stride), "i"(kTile)
                 : "memory");
  }
};

// sum[m][n] += rows[m] . outputs[n]; assembly names the last operand first.
struct Int8Tiles : AmxTiles {
  template <int kSum, int kRows, int kOutputs>
  static HWY_INLINE void add_products() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kRows), "i"(kOutputs));
  }
};

struct BFloat16Tiles : AmxTiles {
  template <int kSum, int kRows, int kOutputs>
  static HWY_INLINE void add_products() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kRows), "i"(kOutputs));
  }
};

}  // namespace

void multiply_int8_amx(const ProductsJob& job) { multiply_all_tiles<Int8Tiles>(job); }
void multiply_bfloat16_amx(const ProductsJob& job) { multiply_all_tiles<BFloat16Tiles>(job); }

}  // namespace reformer
#endif
