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
#include "kernels/cpu/linear/words256-inl.h"

// 6 rows by 2 vectors: 12 sums, 2 vectors of the panel and a row's word fit the 16 registers.
struct Int8 : Words256 {
  static constexpr size_t kRows = 6;

  static HWY_INLINE Vector add_products(Vector sum, __m256i row, __m256i outputs) {
    return _mm256_dpbusd_avx_epi32(sum, row, outputs);
  }
};

}  // namespace

void multiply_int8_avx_vnni(const ProductsJob& job) { multiply_all<Int8>(job); }

}  // namespace reformer
HWY_POP_ATTRIBUTES
#endif
