// Products of bytes (isa/bytes.h) on AVX-512 VNNI: vpdpbusd adds four u8·s8 products to 32 bits.
// Signed weights become unsigned by adding 128 (flipping the top bit); the kernel takes 128·Σa off.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {

struct Bytes {
  __m512i v;
};
struct SignedBytes {
  __m512i v;  // q + 128
};
struct Quad {
  __m512i v;
};
using NibbleSum = i32x16;

constexpr int32_t kSignedOffset = 128;

SLIPSTREAM_INLINE Bytes load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
SLIPSTREAM_INLINE void store_bytes(void* p, Bytes b) { _mm512_storeu_si512(p, b.v); }
SLIPSTREAM_INLINE Bytes low_nibbles(Bytes b) {
  return {_mm512_and_si512(b.v, _mm512_set1_epi8(15))};
}
SLIPSTREAM_INLINE Bytes high_nibbles(Bytes b) {
  return {_mm512_and_si512(_mm512_srli_epi32(b.v, 4), _mm512_set1_epi8(15))};
}
SLIPSTREAM_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
SLIPSTREAM_INLINE i32x16 as_i32(Bytes b) { return {b.v}; }
// Bits that cross into the next byte are masked away.
template <int from, int to, int mask>
SLIPSTREAM_INLINE Bytes field(Bytes b) {
  if constexpr (from > to) b.v = _mm512_srli_epi32(b.v, from - to);
  if constexpr (from < to) b.v = _mm512_slli_epi32(b.v, to - from);
  return {_mm512_and_si512(b.v, _mm512_set1_epi8(char(mask << to)))};
}
template <int step, int to>
SLIPSTREAM_INLINE Bytes plane(const void* p) {
  const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  const __m256i upper = _mm256_srli_epi32(bits, 4);
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(bits), upper, 1);
  return field<step, to, 1>(Bytes{both});
}
template <class Levels>
SLIPSTREAM_INLINE Bytes look_up(Bytes codes) {
  const __m128i levels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Levels::levels));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), codes.v)};
}
SLIPSTREAM_INLINE SignedBytes signed_bytes(Bytes b) {
  return {_mm512_xor_si512(b.v, _mm512_set1_epi8(char(-128)))};
}
SLIPSTREAM_INLINE Quad load_quad(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return {_mm512_set1_epi32(four)};
}

SLIPSTREAM_INLINE NibbleSum start(const Bytes& w, const Quad& a) {
  return {_mm512_dpbusd_epi32(_mm512_setzero_si512(), w.v, a.v)};
}
SLIPSTREAM_INLINE NibbleSum add(const NibbleSum& sum, const Bytes& w, const Quad& a) {
  return {_mm512_dpbusd_epi32(sum.v, w.v, a.v)};
}
SLIPSTREAM_INLINE i32x16 widen(const NibbleSum& sum) { return sum; }
SLIPSTREAM_INLINE i32x16 start(const SignedBytes& w, const Quad& a) {
  return {_mm512_dpbusd_epi32(_mm512_setzero_si512(), w.v, a.v)};
}
SLIPSTREAM_INLINE i32x16 add(const i32x16& sum, const SignedBytes& w, const Quad& a) {
  return {_mm512_dpbusd_epi32(sum.v, w.v, a.v)};
}

}  // namespace slipstream::SLIPSTREAM_ISA
