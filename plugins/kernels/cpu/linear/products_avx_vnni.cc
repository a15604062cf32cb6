// Products of 256-bit vectors: AVX-VNNI, of processors without AVX-512.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <cstring>

#include "hwy/base.h"
#include "kernels/cpu/linear/products.h"

HWY_PUSH_ATTRIBUTES("avx2,avxvnni")
namespace reformer {
namespace {

#include "kernels/cpu/linear/vectors-inl.h"

// 6 rows by 2 vectors: 12 sums, 2 vectors of the panel and a row's word fit the 16 registers.
struct Int8 {
  static constexpr size_t kRows = 6;
  static constexpr size_t kVectors = 2;
  static constexpr size_t kBytes = 32;
  static constexpr size_t kRowWordBytes = kWordBytes;
  using Vector = __m256i;
  using Operand = __m256i;

  static HWY_INLINE Vector zero() { return _mm256_setzero_si256(); }
  static HWY_INLINE __m256i load(const uint8_t* source) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  }
  static HWY_INLINE __m256i broadcast(const uint8_t* source) {
    int32_t word;
    std::memcpy(&word, source, sizeof(word));
    return _mm256_set1_epi32(word);
  }
  static HWY_INLINE void store(uint8_t* target, Vector sum) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), sum);
  }
  static HWY_INLINE Vector add_products(Vector sum, __m256i row, __m256i outputs) {
    return _mm256_dpbusd_avx_epi32(sum, row, outputs);
  }
};

}  // namespace

void multiply_int8_avx_vnni(const ProductsJob& job) { multiply_all<Int8>(job); }

}  // namespace reformer
HWY_POP_ATTRIBUTES
#endif
