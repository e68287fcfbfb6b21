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
