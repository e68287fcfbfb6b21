// The vector interface (isa/vec.h) in plain C++: the truth that the other sets are tested against,
// and what runs where no faster set is known.
#pragma once

#include <cstdint>
#include <cstring>

namespace slipstream::SLIPSTREAM_ISA {

struct f32x16 {
  float lane[16];
};
struct i32x16 {
  int32_t lane[16];
};
struct mask16 {
  bool lane[16];
};

#define SLIPSTREAM_EACH_LANE(Type, expression)           \
  Type out;                                              \
  for (int i = 0; i < 16; ++i) out.lane[i] = expression; \
  return out

SLIPSTREAM_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
SLIPSTREAM_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

SLIPSTREAM_INLINE float f16_to_f32(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t fraction = half & 1023;
  if (exponent == 0) {  // zero and subnormals: fraction · 2^-24, exact
    const float value = float(fraction) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  if (exponent == 31) {  // a signalling NaN becomes quiet, as vcvtph2ps does
    const uint32_t quiet = fraction ? 0x00400000u : 0u;
    return float_of(sign | 0x7f800000u | quiet | (fraction << 13));
  }
  return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
}

SLIPSTREAM_INLINE uint16_t f32_to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// To nearest even without a library call: adding 2^23 pushes the fraction out.
SLIPSTREAM_INLINE float round_even_one(float x) {
  const float size = float_of(bits_of(x) & 0x7fffffffu);
  if (!(size < 8388608.0f)) return x;
  const float rounded = (size + 8388608.0f) - 8388608.0f;
  return float_of(bits_of(rounded) | (bits_of(x) & 0x80000000u));
}

SLIPSTREAM_INLINE f32x16 set1(float x) { SLIPSTREAM_EACH_LANE(f32x16, x); }
SLIPSTREAM_INLINE f32x16 zero_f32() { return set1(0.0f); }
SLIPSTREAM_INLINE i32x16 set1_i32(int32_t x) { SLIPSTREAM_EACH_LANE(i32x16, x); }
SLIPSTREAM_INLINE i32x16 zero_i32() { return set1_i32(0); }

SLIPSTREAM_INLINE f32x16 load(const float* p) { SLIPSTREAM_EACH_LANE(f32x16, p[i]); }
SLIPSTREAM_INLINE f32x16 load(const float* p, int n) {
  SLIPSTREAM_EACH_LANE(f32x16, i < n ? p[i] : 0.0f);
}
SLIPSTREAM_INLINE void store(float* p, f32x16 v) { std::memcpy(p, v.lane, sizeof v.lane); }
SLIPSTREAM_INLINE void store(float* p, f32x16 v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v.lane[i];
}
SLIPSTREAM_INLINE i32x16 load_i32(const int32_t* p) { SLIPSTREAM_EACH_LANE(i32x16, p[i]); }
SLIPSTREAM_INLINE void store_i32(int32_t* p, i32x16 v) { std::memcpy(p, v.lane, sizeof v.lane); }
SLIPSTREAM_INLINE f32x16 load_bf16(const uint16_t* p) {
  SLIPSTREAM_EACH_LANE(f32x16, float_of(uint32_t(p[i]) << 16));
}
SLIPSTREAM_INLINE f32x16 load_bf16(const uint16_t* p, int n) {
  SLIPSTREAM_EACH_LANE(f32x16, i < n ? float_of(uint32_t(p[i]) << 16) : 0.0f);
}
SLIPSTREAM_INLINE f32x16 load_f16(const uint16_t* p) {
  SLIPSTREAM_EACH_LANE(f32x16, f16_to_f32(p[i]));
}
SLIPSTREAM_INLINE void store_bf16(uint16_t* p, f32x16 v) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(v.lane[i]);
}
SLIPSTREAM_INLINE void store_bf16(uint16_t* p, f32x16 v, int n) {
  for (int i = 0; i < n; ++i) p[i] = f32_to_bf16(v.lane[i]);
}
SLIPSTREAM_INLINE void store_i8(int8_t* p, i32x16 v) {
  for (int i = 0; i < 16; ++i) p[i] = int8_t(v.lane[i]);
}

SLIPSTREAM_INLINE i32x16 load_i8(const int8_t* p) { SLIPSTREAM_EACH_LANE(i32x16, p[i]); }
SLIPSTREAM_INLINE i32x16 load_u8(const uint8_t* p) { SLIPSTREAM_EACH_LANE(i32x16, p[i]); }

SLIPSTREAM_INLINE f32x16 operator+(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, a.lane[i] + b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 operator-(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, a.lane[i] - b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 operator*(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, a.lane[i] * b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 operator/(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, a.lane[i] / b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  SLIPSTREAM_EACH_LANE(f32x16, __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]));
}
SLIPSTREAM_INLINE f32x16 min(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 max(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 abs(f32x16 a) {
  SLIPSTREAM_EACH_LANE(f32x16, float_of(bits_of(a.lane[i]) & 0x7fffffffu));
}
SLIPSTREAM_INLINE f32x16 sqrt(f32x16 a) {
  SLIPSTREAM_EACH_LANE(f32x16, __builtin_sqrtf(a.lane[i]));
}
SLIPSTREAM_INLINE f32x16 round_even(f32x16 a) {
  SLIPSTREAM_EACH_LANE(f32x16, round_even_one(a.lane[i]));
}

// Integer sums wrap, as the machine's do.
SLIPSTREAM_INLINE i32x16 operator+(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_LANE(i32x16, int32_t(uint32_t(a.lane[i]) + uint32_t(b.lane[i])));
}
SLIPSTREAM_INLINE i32x16 operator-(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_LANE(i32x16, int32_t(uint32_t(a.lane[i]) - uint32_t(b.lane[i])));
}
SLIPSTREAM_INLINE i32x16 operator&(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_LANE(i32x16, a.lane[i] & b.lane[i]);
}
SLIPSTREAM_INLINE i32x16 operator|(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_LANE(i32x16, a.lane[i] | b.lane[i]);
}
SLIPSTREAM_INLINE i32x16 max_i32(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_LANE(i32x16, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
template <int n>
SLIPSTREAM_INLINE i32x16 shift_left(i32x16 a) {
  SLIPSTREAM_EACH_LANE(i32x16, int32_t(uint32_t(a.lane[i]) << n));
}
template <int n>
SLIPSTREAM_INLINE i32x16 shift_right(i32x16 a) {
  SLIPSTREAM_EACH_LANE(i32x16, a.lane[i] >> n);
}

SLIPSTREAM_INLINE f32x16 to_f32(i32x16 a) { SLIPSTREAM_EACH_LANE(f32x16, float(a.lane[i])); }
SLIPSTREAM_INLINE int32_t to_i32_one(float x) {
  const float rounded = round_even_one(x);
  const bool fits = rounded >= -2147483648.0f && rounded < 2147483648.0f;
  return fits ? int32_t(rounded) : INT32_MIN;
}
SLIPSTREAM_INLINE i32x16 to_i32(f32x16 a) { SLIPSTREAM_EACH_LANE(i32x16, to_i32_one(a.lane[i])); }
SLIPSTREAM_INLINE f32x16 as_f32(i32x16 a) {
  SLIPSTREAM_EACH_LANE(f32x16, float_of(uint32_t(a.lane[i])));
}
SLIPSTREAM_INLINE i32x16 as_i32(f32x16 a) {
  SLIPSTREAM_EACH_LANE(i32x16, int32_t(bits_of(a.lane[i])));
}

SLIPSTREAM_INLINE mask16 less(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(mask16, a.lane[i] < b.lane[i]);
}
SLIPSTREAM_INLINE mask16 less_i32(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_LANE(mask16, a.lane[i] < b.lane[i]);
}
SLIPSTREAM_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_LANE(f32x16, m.lane[i] ? a.lane[i] : b.lane[i]);
}

SLIPSTREAM_INLINE float sum(f32x16 v) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v.lane[i] = v.lane[i] + v.lane[i + width];
  return v.lane[0];
}
SLIPSTREAM_INLINE float max_of(f32x16 v) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i)
      v.lane[i] = v.lane[i] > v.lane[i + width] ? v.lane[i] : v.lane[i + width];
  return v.lane[0];
}
SLIPSTREAM_INLINE int32_t max_of_i32(i32x16 v) {
  int32_t out = v.lane[0];
  for (int i = 1; i < 16; ++i) out = v.lane[i] > out ? v.lane[i] : out;
  return out;
}
SLIPSTREAM_INLINE int32_t sum_i32(i32x16 v) {
  uint32_t out = 0;
  for (int i = 0; i < 16; ++i) out += uint32_t(v.lane[i]);
  return int32_t(out);
}

#undef SLIPSTREAM_EACH_LANE

}  // namespace slipstream::SLIPSTREAM_ISA
