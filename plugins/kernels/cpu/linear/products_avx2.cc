// Products of 256-bit vectors without VNNI: AVX2.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <cstring>

#include "hwy/base.h"
#include "kernels/cpu/linear/products.h"

HWY_PUSH_ATTRIBUTES("avx2")
namespace reformer {
namespace {

#include "kernels/cpu/linear/vectors-inl.h"
#include "kernels/cpu/linear/words256-inl.h"

// A word of a row: its numbers, and their magnitudes.
struct RowWord {
  __m256i numbers;
  __m256i magnitudes;
};

// 4 rows by 2 vectors fit the 16 registers.
struct Int8 : Words256 {
  static constexpr size_t kRows = 4;

  static HWY_INLINE RowWord broadcast(const uint8_t* source) {
    const __m256i numbers = Words256::broadcast(source);
    return {numbers, _mm256_abs_epi8(numbers)};
  }
  // The instruction multiplies uint8 with int8 and adds two products in int16, which must not
  // overflow: so magnitudes up to 127, with the weights bearing the signs, and 2 * 127 * 127 fits.
  static HWY_INLINE Vector add_products(Vector sum, const RowWord& row, __m256i outputs) {
    const __m256i pairs =
        _mm256_maddubs_epi16(row.magnitudes, _mm256_sign_epi8(outputs, row.numbers));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

void multiply_int8_avx2(const ProductsJob& job) { multiply_all<Int8>(job); }

}  // namespace reformer
HWY_POP_ATTRIBUTES
#endif
