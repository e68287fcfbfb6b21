// Products of bytes (isa/bytes.h) on AVX2.
//
// Four bits: vpmaddubsw adds pairs of u8·s8 into 16 bits, and eight steps fit there before one
// vpmaddwd by ones widens them. Eight bits: a pair of products would overflow with u8 weights, so
// the sign moves to the activation: |q| · (a with q's sign); |-128| is 128 as u8, and
// 2 · 128 · 127 = 32512 still fits, for one step.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {

struct Bytes {
  __m256i lo, hi;
};
struct SignedBytes {
  __m256i lo, hi;            // q
  __m256i size_lo, size_hi;  // |q|
};
struct Quad {
  __m256i v;
};
struct NibbleSum {
  __m256i lo, hi;  // 16-bit
};

constexpr int32_t kSignedOffset = 0;

SLIPSTREAM_INLINE Bytes load_bytes(const void* p) {
  return {load_256(p), load_256(static_cast<const char*>(p) + 32)};
}
SLIPSTREAM_INLINE void store_bytes(void* p, Bytes b) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), b.lo);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, b.hi);
}
SLIPSTREAM_INLINE Bytes low_nibbles(Bytes b) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(b.lo, mask), _mm256_and_si256(b.hi, mask)};
}
SLIPSTREAM_INLINE Bytes high_nibbles(Bytes b) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(b.lo, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(b.hi, 4), mask)};
}
SLIPSTREAM_INLINE Bytes operator|(Bytes a, Bytes b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
SLIPSTREAM_INLINE i32x16 as_i32(Bytes b) { return {b.lo, b.hi}; }
// Bits that cross into the next byte are masked away.
template <int from, int to, int mask>
SLIPSTREAM_INLINE __m256i field_of(__m256i v) {
  if constexpr (from > to) v = _mm256_srli_epi16(v, from - to);
  if constexpr (from < to) v = _mm256_slli_epi16(v, to - from);
  return _mm256_and_si256(v, _mm256_set1_epi8(char(mask << to)));
}
template <int from, int to, int mask>
SLIPSTREAM_INLINE Bytes field(Bytes b) {
  return {field_of<from, to, mask>(b.lo), field_of<from, to, mask>(b.hi)};
}
template <int step, int to>
SLIPSTREAM_INLINE Bytes plane(const void* p) {
  const __m256i bits = load_256(p);
  return {field_of<step, to, 1>(bits), field_of<4 + step, to, 1>(bits)};
}
template <class Levels>
SLIPSTREAM_INLINE Bytes look_up(Bytes codes) {
  const __m256i levels = _mm256_broadcastsi128_si256(load_128(Levels::levels));
  return {_mm256_shuffle_epi8(levels, codes.lo), _mm256_shuffle_epi8(levels, codes.hi)};
}
SLIPSTREAM_INLINE SignedBytes signed_bytes(Bytes b) {
  return {b.lo, b.hi, _mm256_abs_epi8(b.lo), _mm256_abs_epi8(b.hi)};
}
SLIPSTREAM_INLINE Quad load_quad(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return {_mm256_set1_epi32(four)};
}

// Hides a value from the optimizer: g++ reorders long integer sums to compute every product first,
// and then spills them all.
SLIPSTREAM_INLINE __m256i in_order(__m256i v) {
  __asm__("" : "+x"(v));
  return v;
}

SLIPSTREAM_INLINE NibbleSum start(const Bytes& w, const Quad& a) {
  return {_mm256_maddubs_epi16(w.lo, a.v), _mm256_maddubs_epi16(w.hi, a.v)};
}
SLIPSTREAM_INLINE NibbleSum add(const NibbleSum& sum, const Bytes& w, const Quad& a) {
  return {in_order(_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(w.lo, a.v))),
          in_order(_mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(w.hi, a.v)))};
}
SLIPSTREAM_INLINE i32x16 widen(const NibbleSum& sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(sum.lo, ones), _mm256_madd_epi16(sum.hi, ones)};
}
SLIPSTREAM_INLINE i32x16 start(const SignedBytes& w, const Quad& a) {
  return widen({_mm256_maddubs_epi16(w.size_lo, _mm256_sign_epi8(a.v, w.lo)),
                _mm256_maddubs_epi16(w.size_hi, _mm256_sign_epi8(a.v, w.hi))});
}
SLIPSTREAM_INLINE i32x16 add(const i32x16& sum, const SignedBytes& w, const Quad& a) {
  const i32x16 four = start(w, a);
  return {in_order(_mm256_add_epi32(sum.lo, four.lo)), in_order(_mm256_add_epi32(sum.hi, four.hi))};
}

}  // namespace slipstream::SLIPSTREAM_ISA
