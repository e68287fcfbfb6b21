// The vector interface (isa/vec.h) on AVX-512 F, BW, VL and DQ: one register of sixteen lanes.
//
// Where no such machine is at hand the tests compile this file over csrc/tests/emulated_avx512.h,
// which gives the same intrinsics in plain loops; so use few of them, and add new ones there.
#pragma once

#include <immintrin.h>

#include <cstdint>

#if defined(SLIPSTREAM_EMULATED)
#include "tests/emulated_avx512.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

struct f32x16 {
  __m512 v;
};
struct i32x16 {
  __m512i v;
};
struct mask16 {
  __mmask16 v;
};

// Ones in the first n lanes, 0 ≤ n ≤ 16.
SLIPSTREAM_INLINE __mmask16 first_lanes(int n) { return __mmask16((1u << n) - 1u); }

SLIPSTREAM_INLINE f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
SLIPSTREAM_INLINE f32x16 zero_f32() { return {_mm512_setzero_ps()}; }
SLIPSTREAM_INLINE i32x16 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
SLIPSTREAM_INLINE i32x16 zero_i32() { return {_mm512_setzero_si512()}; }

SLIPSTREAM_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
SLIPSTREAM_INLINE f32x16 load(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
SLIPSTREAM_INLINE void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
SLIPSTREAM_INLINE void store(float* p, f32x16 a, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
SLIPSTREAM_INLINE i32x16 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
SLIPSTREAM_INLINE void store_i32(int32_t* p, i32x16 a) { _mm512_storeu_si512(p, a.v); }

SLIPSTREAM_INLINE __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
SLIPSTREAM_INLINE f32x16 widen_bf16(__m256i v) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16))};
}
SLIPSTREAM_INLINE f32x16 load_bf16(const uint16_t* p) { return widen_bf16(load_256(p)); }
SLIPSTREAM_INLINE f32x16 load_bf16(const uint16_t* p, int n) {
  alignas(32) uint16_t lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bf16(lanes);
}
SLIPSTREAM_INLINE f32x16 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(load_256(p))}; }
// float32 → bfloat16 to nearest even; NaN stays NaN. (vcvtneps2bf16 flushes subnormals: not used.)
SLIPSTREAM_INLINE __m256i narrow_bf16(f32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
}
SLIPSTREAM_INLINE void store_bf16(uint16_t* p, f32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a));
}
SLIPSTREAM_INLINE void store_bf16(uint16_t* p, f32x16 a, int n) {
  alignas(32) uint16_t lanes[16];
  store_bf16(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
SLIPSTREAM_INLINE void store_i8(int8_t* p, i32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

SLIPSTREAM_INLINE __m128i load_128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
SLIPSTREAM_INLINE i32x16 load_i8(const int8_t* p) { return {_mm512_cvtepi8_epi32(load_128(p))}; }
SLIPSTREAM_INLINE i32x16 load_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(load_128(p))}; }

SLIPSTREAM_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
SLIPSTREAM_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
SLIPSTREAM_INLINE f32x16 abs(f32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  return {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)))};
}
SLIPSTREAM_INLINE f32x16 sqrt(f32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
SLIPSTREAM_INLINE f32x16 round_even(f32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

SLIPSTREAM_INLINE i32x16 operator+(i32x16 a, i32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
SLIPSTREAM_INLINE i32x16 operator-(i32x16 a, i32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
SLIPSTREAM_INLINE i32x16 operator&(i32x16 a, i32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
SLIPSTREAM_INLINE i32x16 operator|(i32x16 a, i32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
SLIPSTREAM_INLINE i32x16 max_i32(i32x16 a, i32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
template <int n>
SLIPSTREAM_INLINE i32x16 shift_left(i32x16 a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
SLIPSTREAM_INLINE i32x16 shift_right(i32x16 a) {
  return {_mm512_srai_epi32(a.v, n)};
}

SLIPSTREAM_INLINE f32x16 to_f32(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
SLIPSTREAM_INLINE i32x16 to_i32(f32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
SLIPSTREAM_INLINE f32x16 as_f32(i32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
SLIPSTREAM_INLINE i32x16 as_i32(f32x16 a) { return {_mm512_castps_si512(a.v)}; }

SLIPSTREAM_INLINE mask16 less(f32x16 a, f32x16 b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
SLIPSTREAM_INLINE mask16 less_i32(i32x16 a, i32x16 b) {
  return {_mm512_cmpgt_epi32_mask(b.v, a.v)};
}
SLIPSTREAM_INLINE f32x16 select(mask16 m, f32x16 a, f32x16 b) {
  return {_mm512_mask_blend_ps(m.v, b.v, a.v)};
}

SLIPSTREAM_INLINE __m256 low_half(f32x16 a) { return _mm512_castps512_ps256(a.v); }
SLIPSTREAM_INLINE __m256 high_half(f32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }
SLIPSTREAM_INLINE float sum(f32x16 a) {
  const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
SLIPSTREAM_INLINE float max_of(f32x16 a) {
  const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
SLIPSTREAM_INLINE __m256i low_half(i32x16 a) { return _mm512_castsi512_si256(a.v); }
SLIPSTREAM_INLINE __m256i high_half(i32x16 a) { return _mm256_castps_si256(high_half(as_f32(a))); }
SLIPSTREAM_INLINE int32_t max_of_i32(i32x16 a) {
  const __m256i eight = _mm256_max_epi32(low_half(a), high_half(a));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
SLIPSTREAM_INLINE int32_t sum_i32(i32x16 a) {
  const __m256i eight = _mm256_add_epi32(low_half(a), high_half(a));
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}

}  // namespace slipstream::SLIPSTREAM_ISA
