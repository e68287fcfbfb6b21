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
