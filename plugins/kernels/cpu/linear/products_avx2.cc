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

// Products of int16, two of them in a sum of int32. The instruction for bytes multiplies uint8 with
// int8 and adds two products in int16: signs have to go from rows to weights there, lest it
// overflows, and sums to int32, which takes the same ports three times for the two here.
// An output's word of 4 numbers has 64 bits then: a sum has two halves, added at the end.
// 6 rows by 2 vectors of 4 outputs: 12 sums, 2 vectors of the panel, a row's word and a product fit
// the 16 registers.
struct Int8 {
  static constexpr size_t kRows = 6;
  static constexpr size_t kVectors = 2;
  static constexpr size_t kBytes = 16;
  static constexpr size_t kRowWordBytes = 2 * kWordBytes;
  using Vector = __m256i;
  using Operand = __m256i;

  static HWY_INLINE Vector zero() { return _mm256_setzero_si256(); }
  static HWY_INLINE Operand load(const uint8_t* source) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  }
  static HWY_INLINE Operand broadcast(const uint8_t* source) {
    int64_t word;
    std::memcpy(&word, source, sizeof(word));
    return _mm256_set1_epi64x(word);
  }
  static HWY_INLINE Vector add_products(Vector sum, Operand row, Operand outputs) {
    const __m256i products = _mm256_madd_epi16(row, outputs);
    // In words, because GCC 12 keeps some sums in memory otherwise, which takes twice as long.
    asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
    return sum;
  }
  static HWY_INLINE void store(uint8_t* target, Vector sum) {
    const __m256i pairs = _mm256_hadd_epi32(sum, sum);
    const __m256i outputs = _mm256_permute4x64_epi64(pairs, 0b1000);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_castsi256_si128(outputs));
  }
};

}  // namespace

void multiply_int8_avx2(const ProductsJob& job) { multiply_all<Int8>(job); }

}  // namespace reformer
HWY_POP_ATTRIBUTES
#endif
