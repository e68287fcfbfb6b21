// Products of bytes (isa/bytes.h) on 64-bit ARM with the dot product (FEAT_DotProd): one `sdot` is
// a step for four outputs, in the layout of the panels as it is. isa/pairs_i8mm.h has the products
// of two rows at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {

struct Bytes {
  uint8x16_t v[4];
};
struct SignedBytes {
  int8x16_t v[4];
};
struct Quad {
  int8x16_t v;
};
using NibbleSum = i32x16;

constexpr int32_t kSignedOffset = 0;

SLIPSTREAM_INLINE Bytes load_bytes(const void* p) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  SLIPSTREAM_EACH_FOUR(Bytes, vld1q_u8(bytes + 16 * i));
}
SLIPSTREAM_INLINE void store_bytes(void* p, Bytes b) {
  auto* bytes = static_cast<uint8_t*>(p);
  SLIPSTREAM_UNROLL(4)
  for (int i = 0; i < 4; ++i) vst1q_u8(bytes + 16 * i, b.v[i]);
}
SLIPSTREAM_INLINE Bytes low_nibbles(Bytes b) {
  SLIPSTREAM_EACH_FOUR(Bytes, vandq_u8(b.v[i], vdupq_n_u8(15)));
}
SLIPSTREAM_INLINE Bytes high_nibbles(Bytes b) {
  SLIPSTREAM_EACH_FOUR(Bytes, vshrq_n_u8(b.v[i], 4));
}
SLIPSTREAM_INLINE Bytes operator|(Bytes a, Bytes b) {
  SLIPSTREAM_EACH_FOUR(Bytes, vorrq_u8(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE i32x16 as_i32(Bytes b) {
  SLIPSTREAM_EACH_FOUR(i32x16, vreinterpretq_s32_u8(b.v[i]));
}
template <int from, int to, int mask>
SLIPSTREAM_INLINE uint8x16_t field_of(uint8x16_t v) {
  if constexpr (from > to) v = vshrq_n_u8(v, from - to);
  if constexpr (from < to) v = vshlq_n_u8(v, to - from);
  return vandq_u8(v, vdupq_n_u8(uint8_t(mask << to)));
}
template <int from, int to, int mask>
SLIPSTREAM_INLINE Bytes field(Bytes b) {
  SLIPSTREAM_EACH_FOUR(Bytes, (field_of<from, to, mask>(b.v[i])));
}
template <int step, int to>
SLIPSTREAM_INLINE Bytes plane(const void* p) {
  const auto* bits = static_cast<const uint8_t*>(p);
  const uint8x16_t low = vld1q_u8(bits), high = vld1q_u8(bits + 16);
  return {{field_of<step, to, 1>(low), field_of<step, to, 1>(high), field_of<4 + step, to, 1>(low),
           field_of<4 + step, to, 1>(high)}};
}
template <class Levels>
SLIPSTREAM_INLINE Bytes look_up(Bytes codes) {
  const int8x16_t levels = vld1q_s8(Levels::levels);
  SLIPSTREAM_EACH_FOUR(Bytes, vreinterpretq_u8_s8(vqtbl1q_s8(levels, codes.v[i])));
}
SLIPSTREAM_INLINE SignedBytes signed_bytes(Bytes b) {
  SLIPSTREAM_EACH_FOUR(SignedBytes, vreinterpretq_s8_u8(b.v[i]));
}
SLIPSTREAM_INLINE Quad load_quad(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}

SLIPSTREAM_INLINE i32x16 add(const i32x16& sum, const SignedBytes& w, const Quad& a) {
  SLIPSTREAM_EACH_FOUR(i32x16, vdotq_s32(sum.v[i], w.v[i], a.v));
}
SLIPSTREAM_INLINE i32x16 start(const SignedBytes& w, const Quad& a) {
  return add(zero_i32(), w, a);
}
// Codes 0 … 63 are signed bytes too.
SLIPSTREAM_INLINE NibbleSum add(const NibbleSum& sum, const Bytes& w, const Quad& a) {
  return add(sum, signed_bytes(w), a);
}
SLIPSTREAM_INLINE NibbleSum start(const Bytes& w, const Quad& a) { return add(zero_i32(), w, a); }
SLIPSTREAM_INLINE i32x16 widen(const NibbleSum& sum) { return sum; }

}  // namespace slipstream::SLIPSTREAM_ISA
