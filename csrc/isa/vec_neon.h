// The vector interface (isa/vec.h) on 64-bit ARM: four registers of four lanes.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace slipstream::SLIPSTREAM_ISA {

struct f32x16 {
  float32x4_t v[4];
};
struct i32x16 {
  int32x4_t v[4];
};
struct mask16 {
  uint32x4_t v[4];
};

// Type of the four registers that `expression` gives for i = 0 … 3.
#define SLIPSTREAM_EACH_FOUR(Type, expression)       \
  Type out;                                          \
  SLIPSTREAM_UNROLL(4)                               \
  for (int i = 0; i < 4; ++i) out.v[i] = expression; \
  return out

SLIPSTREAM_INLINE f32x16 set1(float x) { SLIPSTREAM_EACH_FOUR(f32x16, vdupq_n_f32(x)); }
SLIPSTREAM_INLINE f32x16 zero_f32() { return set1(0.0f); }
SLIPSTREAM_INLINE i32x16 set1_i32(int32_t x) { SLIPSTREAM_EACH_FOUR(i32x16, vdupq_n_s32(x)); }
SLIPSTREAM_INLINE i32x16 zero_i32() { return set1_i32(0); }

SLIPSTREAM_INLINE f32x16 load(const float* p) {
  SLIPSTREAM_EACH_FOUR(f32x16, vld1q_f32(p + 4 * i));
}
SLIPSTREAM_INLINE f32x16 load(const float* p, int n) {
  float lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
SLIPSTREAM_INLINE void store(float* p, f32x16 v) {
  SLIPSTREAM_UNROLL(4)
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v.v[i]);
}
SLIPSTREAM_INLINE void store(float* p, f32x16 v, int n) {
  float lanes[16];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
SLIPSTREAM_INLINE i32x16 load_i32(const int32_t* p) {
  SLIPSTREAM_EACH_FOUR(i32x16, vld1q_s32(p + 4 * i));
}
SLIPSTREAM_INLINE void store_i32(int32_t* p, i32x16 v) {
  SLIPSTREAM_UNROLL(4)
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, v.v[i]);
}
SLIPSTREAM_INLINE f32x16 load_bf16(const uint16_t* p) {
  SLIPSTREAM_EACH_FOUR(f32x16, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
SLIPSTREAM_INLINE f32x16 load_bf16(const uint16_t* p, int n) {
  uint16_t lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bf16(lanes);
}
SLIPSTREAM_INLINE f32x16 load_f16(const uint16_t* p) {
  SLIPSTREAM_EACH_FOUR(f32x16, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
// float32 → bfloat16, to nearest even; NaN stays NaN.
SLIPSTREAM_INLINE uint16x4_t narrow_bf16(float32x4_t v) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v);
  const uint32x4_t high = vshrq_n_u32(bits, 16);
  const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
  const uint32x4_t bias = vaddq_u32(odd, vdupq_n_u32(0x7fff));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, bias), 16);
  const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet));
}
SLIPSTREAM_INLINE void store_bf16(uint16_t* p, f32x16 v) {
  SLIPSTREAM_UNROLL(4)
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, narrow_bf16(v.v[i]));
}
SLIPSTREAM_INLINE void store_bf16(uint16_t* p, f32x16 v, int n) {
  uint16_t lanes[16];
  store_bf16(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
SLIPSTREAM_INLINE void store_i8(int8_t* p, i32x16 v) {
  const int16x8_t low = vcombine_s16(vmovn_s32(v.v[0]), vmovn_s32(v.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(v.v[2]), vmovn_s32(v.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
SLIPSTREAM_INLINE i32x16 load_i8(const int8_t* p) {
  const int8x16_t all = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)),
           vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
}
SLIPSTREAM_INLINE i32x16 load_u8(const uint8_t* p) {
  const uint8x16_t all = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(all)), high = vmovl_u8(vget_high_u8(all));
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
           vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}

SLIPSTREAM_INLINE f32x16 operator+(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, vaddq_f32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 operator-(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, vsubq_f32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 operator*(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, vmulq_f32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 operator/(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, vdivq_f32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  SLIPSTREAM_EACH_FOUR(f32x16, vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
// Not vminq and vmaxq: those return NaN where either is.
SLIPSTREAM_INLINE float32x4_t lesser(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vcltq_f32(a, b), a, b);
}
SLIPSTREAM_INLINE float32x4_t greater(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vcgtq_f32(a, b), a, b);
}
SLIPSTREAM_INLINE f32x16 min(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, lesser(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 max(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, greater(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 abs(f32x16 a) { SLIPSTREAM_EACH_FOUR(f32x16, vabsq_f32(a.v[i])); }
SLIPSTREAM_INLINE f32x16 sqrt(f32x16 a) { SLIPSTREAM_EACH_FOUR(f32x16, vsqrtq_f32(a.v[i])); }
SLIPSTREAM_INLINE f32x16 round_even(f32x16 a) { SLIPSTREAM_EACH_FOUR(f32x16, vrndnq_f32(a.v[i])); }

SLIPSTREAM_INLINE i32x16 operator+(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_FOUR(i32x16, vaddq_s32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE i32x16 operator-(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_FOUR(i32x16, vsubq_s32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE i32x16 operator&(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_FOUR(i32x16, vandq_s32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE i32x16 operator|(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_FOUR(i32x16, vorrq_s32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE i32x16 max_i32(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_FOUR(i32x16, vmaxq_s32(a.v[i], b.v[i]));
}
// vshlq takes any count; a negative one shifts right, and keeps the sign.
template <int n>
SLIPSTREAM_INLINE i32x16 shift_left(i32x16 a) {
  SLIPSTREAM_EACH_FOUR(i32x16, vshlq_s32(a.v[i], vdupq_n_s32(n)));
}
template <int n>
SLIPSTREAM_INLINE i32x16 shift_right(i32x16 a) {
  SLIPSTREAM_EACH_FOUR(i32x16, vshlq_s32(a.v[i], vdupq_n_s32(-n)));
}

SLIPSTREAM_INLINE f32x16 to_f32(i32x16 a) { SLIPSTREAM_EACH_FOUR(f32x16, vcvtq_f32_s32(a.v[i])); }
// The conversion saturates, and makes NaN zero; here both are INT_MIN.
SLIPSTREAM_INLINE int32x4_t to_i32(float32x4_t v) {
  const uint32x4_t fits = vandq_u32(vcgeq_f32(v, vdupq_n_f32(-2147483648.0f)),
                                    vcltq_f32(v, vdupq_n_f32(2147483648.0f)));
  return vbslq_s32(fits, vcvtnq_s32_f32(v), vdupq_n_s32(INT32_MIN));
}
SLIPSTREAM_INLINE i32x16 to_i32(f32x16 a) { SLIPSTREAM_EACH_FOUR(i32x16, to_i32(a.v[i])); }
SLIPSTREAM_INLINE f32x16 as_f32(i32x16 a) {
  SLIPSTREAM_EACH_FOUR(f32x16, vreinterpretq_f32_s32(a.v[i]));
}
SLIPSTREAM_INLINE i32x16 as_i32(f32x16 a) {
  SLIPSTREAM_EACH_FOUR(i32x16, vreinterpretq_s32_f32(a.v[i]));
}

SLIPSTREAM_INLINE mask16 less(f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(mask16, vcltq_f32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE mask16 less_i32(i32x16 a, i32x16 b) {
  SLIPSTREAM_EACH_FOUR(mask16, vcltq_s32(a.v[i], b.v[i]));
}
SLIPSTREAM_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  SLIPSTREAM_EACH_FOUR(f32x16, vbslq_f32(m.v[i], a.v[i], b.v[i]));
}

SLIPSTREAM_INLINE float sum(f32x16 v) {
  const float32x4_t four =
      vaddq_f32(vaddq_f32(v.v[0], v.v[2]), vaddq_f32(v.v[1], v.v[3]));  // 8 + 8, then 4 + 4
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
SLIPSTREAM_INLINE float max_of(f32x16 v) {
  const float32x4_t four = greater(greater(v.v[0], v.v[2]), greater(v.v[1], v.v[3]));
  const float32x2_t low = vget_low_f32(four), high = vget_high_f32(four);
  const float32x2_t two = vbsl_f32(vcgt_f32(low, high), low, high);
  const float first = vget_lane_f32(two, 0), second = vget_lane_f32(two, 1);
  return first > second ? first : second;
}
SLIPSTREAM_INLINE int32_t max_of_i32(i32x16 v) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(v.v[0], v.v[1]), vmaxq_s32(v.v[2], v.v[3])));
}
SLIPSTREAM_INLINE int32_t sum_i32(i32x16 v) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(v.v[0], v.v[1]), vaddq_s32(v.v[2], v.v[3])));
}

}  // namespace slipstream::SLIPSTREAM_ISA
