// Products of 16-bit integers on AVX2, for int8 × int8: one vpmaddwd takes two inputs of eight
// outputs, with no sign to move and nothing to widen. It costs 128 products and 128 sums where
// bytes cost 64 + 64 products, 64 signs and 64 sums (4 rows × 32 inputs × 16 outputs), and leaves
// the two ports that multiply to each other's products.
//
// Within a step of four inputs i, both sides lie as i0 i2, i1 i3: what two shifts of 16-bit lanes
// make of bytes.
#pragma once

#include <cstdint>

#include "isa/bytes_avx2.h"

namespace slipstream::SLIPSTREAM_ISA {

// Two inputs of 16 outputs, [lane][2].
struct Words {
  __m256i lo, hi;
};

SLIPSTREAM_INLINE Words load_words(const void* p) {
  return {load_256(p), load_256(static_cast<const char*>(p) + 32)};
}
SLIPSTREAM_INLINE i32x16 start(const Words& w, const Quad& a) {
  return {_mm256_madd_epi16(w.lo, a.v), _mm256_madd_epi16(w.hi, a.v)};
}
SLIPSTREAM_INLINE i32x16 add(const i32x16& sum, const Words& w, const Quad& a) {
  const i32x16 two = start(w, a);
  return {in_order(_mm256_add_epi32(sum.lo, two.lo)), in_order(_mm256_add_epi32(sum.hi, two.hi))};
}

SLIPSTREAM_INLINE __m256i even_bytes(__m256i v) {
  return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8);
}
SLIPSTREAM_INLINE __m256i odd_bytes(__m256i v) { return _mm256_srai_epi16(v, 8); }

// One step of codes as two half steps, 128 bytes.
SLIPSTREAM_INLINE void store_words(void* p, Bytes b) {
  auto* out = static_cast<__m256i*>(p);
  _mm256_storeu_si256(out, even_bytes(b.lo));
  _mm256_storeu_si256(out + 1, even_bytes(b.hi));
  _mm256_storeu_si256(out + 2, odd_bytes(b.lo));
  _mm256_storeu_si256(out + 3, odd_bytes(b.hi));
}

// `count` codes of a row, a multiple of 32, as pairs in the order of the half steps.
SLIPSTREAM_INLINE void widen_row(const int8_t* codes, int64_t count, int8_t* out) {
  for (int64_t k = 0; k < count; k += 32) {
    const __m256i bytes = load_256(codes + k);
    const __m256i even = even_bytes(bytes), odd = odd_bytes(bytes);
    const __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
    auto* pairs = reinterpret_cast<__m256i*>(out + 2 * k);
    _mm256_storeu_si256(pairs, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(pairs + 1, _mm256_permute2x128_si256(low, high, 0x31));
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
