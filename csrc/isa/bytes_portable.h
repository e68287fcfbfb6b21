// Products of bytes (isa/bytes.h) in plain C++.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {

struct Bytes {
  uint8_t code[64];  // [lane][4]
};
struct SignedBytes {
  int8_t code[64];  // [lane][4]
};
struct Quad {
  int8_t input[4];
};
using NibbleSum = i32x16;

constexpr int32_t kSignedOffset = 0;

SLIPSTREAM_INLINE Bytes load_bytes(const void* p) {
  Bytes out;
  std::memcpy(out.code, p, 64);
  return out;
}
SLIPSTREAM_INLINE void store_bytes(void* p, Bytes b) { std::memcpy(p, b.code, 64); }
SLIPSTREAM_INLINE Bytes low_nibbles(Bytes b) {
  for (uint8_t& code : b.code) code &= 15;
  return b;
}
SLIPSTREAM_INLINE Bytes high_nibbles(Bytes b) {
  for (uint8_t& code : b.code) code >>= 4;
  return b;
}
SLIPSTREAM_INLINE Bytes operator|(Bytes a, Bytes b) {
  for (int i = 0; i < 64; ++i) a.code[i] |= b.code[i];
  return a;
}
SLIPSTREAM_INLINE i32x16 as_i32(Bytes b) {
  i32x16 out;
  std::memcpy(out.lane, b.code, 64);
  return out;
}
template <int from, int to, int mask>
SLIPSTREAM_INLINE Bytes field(Bytes b) {
  for (uint8_t& code : b.code) code = uint8_t((code >> from & mask) << to);
  return b;
}
template <int step, int to>
SLIPSTREAM_INLINE Bytes plane(const void* p) {
  const auto* bits = static_cast<const uint8_t*>(p);
  Bytes out;
  for (int i = 0; i < 32; ++i) {
    out.code[i] = uint8_t((bits[i] >> step & 1) << to);
    out.code[32 + i] = uint8_t((bits[i] >> (4 + step) & 1) << to);
  }
  return out;
}
template <class Levels>
SLIPSTREAM_INLINE Bytes look_up(Bytes codes) {
  for (uint8_t& code : codes.code) code = uint8_t(Levels::levels[code]);
  return codes;
}
SLIPSTREAM_INLINE SignedBytes signed_bytes(Bytes b) {
  SignedBytes out;
  std::memcpy(out.code, b.code, 64);
  return out;
}
SLIPSTREAM_INLINE Quad load_quad(const int8_t* p) {
  Quad out;
  std::memcpy(out.input, p, 4);
  return out;
}

template <class Codes>
SLIPSTREAM_INLINE i32x16 add_products(i32x16 sum, const Codes& w, const Quad& a) {
  for (int lane = 0; lane < 16; ++lane)
    for (int i = 0; i < 4; ++i)
      sum.lane[lane] += int32_t(w.code[4 * lane + i]) * int32_t(a.input[i]);
  return sum;
}
SLIPSTREAM_INLINE NibbleSum start(const Bytes& w, const Quad& a) {
  return add_products(zero_i32(), w, a);
}
SLIPSTREAM_INLINE NibbleSum add(const NibbleSum& sum, const Bytes& w, const Quad& a) {
  return add_products(sum, w, a);
}
SLIPSTREAM_INLINE i32x16 start(const SignedBytes& w, const Quad& a) {
  return add_products(zero_i32(), w, a);
}
SLIPSTREAM_INLINE i32x16 add(const i32x16& sum, const SignedBytes& w, const Quad& a) {
  return add_products(sum, w, a);
}
SLIPSTREAM_INLINE i32x16 widen(const NibbleSum& sum) { return sum; }

}  // namespace slipstream::SLIPSTREAM_ISA
