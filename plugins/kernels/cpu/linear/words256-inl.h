// What the targets of 256-bit vectors share. Included inside the attributes that allow them.

struct Words256 {
  static constexpr size_t kVectors = 2;
  static constexpr size_t kBytes = 32;
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
};
