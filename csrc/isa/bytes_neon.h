// Products of bytes (isa/bytes.h) on 64-bit ARM with the dot product (FEAT_DotProd): one `sdot` is
// a step for four outputs, in the layout of the panels as it is. The matrix product of i8mm wants
// eight inputs of two outputs together, so it would need a layout of its own.
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
// Codes 0 … 15 are signed bytes too.
SLIPSTREAM_INLINE NibbleSum add(const NibbleSum& sum, const Bytes& w, const Quad& a) {
  return add(sum, signed_bytes(w), a);
}
SLIPSTREAM_INLINE NibbleSum start(const Bytes& w, const Quad& a) { return add(zero_i32(), w, a); }
SLIPSTREAM_INLINE i32x16 widen(const NibbleSum& sum) { return sum; }

}  // namespace slipstream::SLIPSTREAM_ISA
