// Products of 512-bit vectors: AVX512-VNNI and AVX512-BF16.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <cstring>

#include "hwy/base.h"
#include "kernels/cpu/linear/products.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")
namespace reformer {
namespace {

#include "kernels/cpu/linear/vectors-inl.h"

// 12 rows by 2 vectors: 24 sums, 2 vectors of the panel and a row's word fit the 32 registers.
struct Words {
  static constexpr size_t kRows = 12;
  static constexpr size_t kVectors = 2;
  static constexpr size_t kBytes = 64;
  static constexpr size_t kRowWordBytes = kWordBytes;

  static HWY_INLINE __m512i load(const uint8_t* source) { return _mm512_loadu_si512(source); }
  static HWY_INLINE __m512i broadcast(const uint8_t* source) {
    int32_t word;
    std::memcpy(&word, source, sizeof(word));
    return _mm512_set1_epi32(word);
  }
};

struct Int8 : Words {
  using Vector = __m512i;
  using Operand = __m512i;
  static HWY_INLINE Vector zero() { return _mm512_setzero_si512(); }
  static HWY_INLINE Vector add_products(Vector sum, __m512i row, __m512i outputs) {
    return _mm512_dpbusd_epi32(sum, row, outputs);
  }
  static HWY_INLINE void store(uint8_t* target, Vector sum) { _mm512_storeu_si512(target, sum); }
};

struct BFloat16 : Words {
  using Vector = __m512;
  using Operand = __m512i;
  static HWY_INLINE Vector zero() { return _mm512_setzero_ps(); }
  static HWY_INLINE Vector add_products(Vector sum, __m512i row, __m512i outputs) {
    return _mm512_dpbf16_ps(sum, (__m512bh)row, (__m512bh)outputs);
  }
  static HWY_INLINE void store(uint8_t* target, Vector sum) { _mm512_storeu_ps(target, sum); }
};

}  // namespace

void multiply_int8_avx512(const ProductsJob& job) { multiply_all<Int8>(job); }
void multiply_bfloat16_avx512(const ProductsJob& job) { multiply_all<BFloat16>(job); }

}  // namespace reformer
HWY_POP_ATTRIBUTES
#endif
