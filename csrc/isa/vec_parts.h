// One register of the vector interface: what a tile of many sums is counted in. A part has eight
// lanes on AVX2, whose registers are half of 16 lanes, and is the whole f32x16 elsewhere.
//
//   kPartLanes  zero_part() set1_part(x) load_part(p) store_part(p, v) fma(a, b, c)
//   part_bf16(p, at)                      kPartLanes elements from p + at on, widened; where
//                                         kDealtBF16, of each 16 first the even ones, then the odd
//   in_order(v)                           16 elements that were dealt so
//   part_i8(p)                            kPartLanes elements, widened
//   part_low_codes(p) part_high_codes(p)  four bits of each of kPartLanes bytes
#pragma once

#include <cstdint>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {

#if defined(SLIPSTREAM_ISA_AVX2)

constexpr int kPartLanes = 8;

struct f32part {
  __m256 v;
};

SLIPSTREAM_INLINE f32part zero_part() { return {_mm256_setzero_ps()}; }
SLIPSTREAM_INLINE f32part set1_part(float x) { return {_mm256_set1_ps(x)}; }
SLIPSTREAM_INLINE f32part load_part(const float* p) { return {_mm256_loadu_ps(p)}; }
SLIPSTREAM_INLINE void store_part(float* p, f32part a) { _mm256_storeu_ps(p, a.v); }
SLIPSTREAM_INLINE f32part fma(f32part a, f32part b, f32part c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}

// Two neighbours are the halves of a word: a shift or a mask widens them, where taking them in
// order would cost a shuffle as well, on the ports that multiply.
constexpr bool kDealtBF16 = true;
SLIPSTREAM_INLINE f32part part_bf16(const std::uint16_t* p, int at) {
  const std::uint16_t* word = p + at / 16 * 16;
  if (at & 8)
    asm volatile(""
                 : "+r"(word));  // loaded again for the odd ones: a register is dearer than a load
  const __m256i both = load_256(word);
  const __m256i odd = _mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000)));
  return {_mm256_castsi256_ps(at & 8 ? odd : _mm256_slli_epi32(both, 16))};
}
SLIPSTREAM_INLINE f32x16 dealt_bf16(const std::uint16_t* p, int n) {
  alignas(32) std::uint16_t lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return {part_bf16(lanes, 0).v, part_bf16(lanes, 8).v};
}
SLIPSTREAM_INLINE f32x16 in_order(f32x16 dealt) {
  const __m256 low = _mm256_unpacklo_ps(dealt.lo, dealt.hi);
  const __m256 high = _mm256_unpackhi_ps(dealt.lo, dealt.hi);
  return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
SLIPSTREAM_INLINE void store_in_order(float* p, f32part even, f32part odd) {
  store(p, in_order({even.v, odd.v}));
}

SLIPSTREAM_INLINE f32part part_i8(const std::int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_64(p)))};
}
SLIPSTREAM_INLINE f32part part_low_codes(const std::uint8_t* p) {
  const __m256i low = _mm256_and_si256(_mm256_cvtepu8_epi32(load_64(p)), _mm256_set1_epi32(15));
  return {_mm256_cvtepi32_ps(low)};
}
SLIPSTREAM_INLINE f32part part_high_codes(const std::uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_cvtepu8_epi32(load_64(p)), 4))};
}

#else

constexpr int kPartLanes = 16;

using f32part = f32x16;

SLIPSTREAM_INLINE f32part zero_part() { return zero_f32(); }
SLIPSTREAM_INLINE f32part set1_part(float x) { return set1(x); }
SLIPSTREAM_INLINE f32part load_part(const float* p) { return load(p); }
SLIPSTREAM_INLINE void store_part(float* p, f32part a) { store(p, a); }

constexpr bool kDealtBF16 = false;
SLIPSTREAM_INLINE f32part part_bf16(const std::uint16_t* p, int at) { return load_bf16(p + at); }
SLIPSTREAM_INLINE f32x16 dealt_bf16(const std::uint16_t* p, int n) { return load_bf16(p, n); }
SLIPSTREAM_INLINE f32x16 in_order(f32x16 dealt) { return dealt; }
SLIPSTREAM_INLINE void store_in_order(float*, f32part, f32part) {}

SLIPSTREAM_INLINE f32part part_i8(const std::int8_t* p) { return to_f32(load_i8(p)); }
SLIPSTREAM_INLINE f32part part_low_codes(const std::uint8_t* p) {
  return to_f32(load_u8(p) & set1_i32(15));
}
SLIPSTREAM_INLINE f32part part_high_codes(const std::uint8_t* p) {
  return to_f32(shift_right<4>(load_u8(p)));
}

#endif

}  // namespace slipstream::SLIPSTREAM_ISA
