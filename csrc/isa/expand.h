// Codes that were kept, back to back, to where a bit mask says they belong: the vector interface of
// weights with zeros in no pattern. `mask` has a bit for each of a step's 64 codes (isa/bytes.h).
//
//   Bytes By::expand(p, mask)   the codes from p on, in turn, at the bits that are set; else zeros
//   Bytes By::expand_nibbles(p, mask)   the same of nibbles, low ones first, where By::nibbles
//   widen_nibbles(p, count, out)        count bytes of nibbles to bytes, sixteen at a time
//   Bytes from_zero(b)          nibbles -8 … 7 (two's complement) as codes 0 … 15
//
// By is ByTable, and on AVX-512 ByInstruction too, which is for processors that expands_bytes().
// Up to 64 bytes past the last code are read, and not used.
#pragma once

#include <cstddef>

#include "isa/bytes.h"
#include "isa/expand_table.h"
#include "isa/isa.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kExpandBeyond = 64;  // bytes that are read past the last code, at most

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512) || defined(SLIPSTREAM_ISA_AVX2)

// Two times eight codes by two bytes of the mask: the second eight follow `count` codes later.
SLIPSTREAM_INLINE __m128i expand_sixteen(const std::byte* p, unsigned low, unsigned high,
                                         int count) {
  const auto pair = [](const void* first, const void* second) {
    const __m128i half = _mm_loadl_epi64(static_cast<const __m128i*>(first));
    return _mm_castpd_si128(
        _mm_loadh_pd(_mm_castsi128_pd(half), static_cast<const double*>(second)));
  };
  return _mm_shuffle_epi8(pair(p, p + count),
                          pair(kExpandTable.first[low], kExpandTable.second[high]));
}
SLIPSTREAM_INLINE __m256i expand_half(const std::byte* p, uint32_t mask) {
  const unsigned bytes[4] = {mask & 255, mask >> 8 & 255, mask >> 16 & 255, mask >> 24};
  const std::byte* upper = p + __builtin_popcount(mask & 0xffff);
  return _mm256_set_m128i(expand_sixteen(upper, bytes[2], bytes[3], __builtin_popcount(bytes[2])),
                          expand_sixteen(p, bytes[0], bytes[1], __builtin_popcount(bytes[0])));
}
SLIPSTREAM_INLINE void widen_nibbles(const std::byte* p, int64_t count, std::byte* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const __m256i pairs = _mm256_cvtepu8_epi16(load_128(p + i));
    const __m256i both = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i),
                        _mm256_and_si256(both, _mm256_set1_epi8(15)));
  }
}

#endif

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)

struct ByTable {
  static constexpr bool nibbles = false;
  SLIPSTREAM_INLINE static Bytes expand(const std::byte* p, uint64_t mask) {
    const auto low = uint32_t(mask), high = uint32_t(mask >> 32);
    const __m256i upper = expand_half(p + __builtin_popcount(low), high);
    return {_mm512_inserti64x4(_mm512_castsi256_si512(expand_half(p, low)), upper, 1)};
  }
};

// vpexpandb. Written out, so that this set still runs on processors without AVX-512 VBMI2.
SLIPSTREAM_INLINE __m512i expand_register(__m512i codes, uint64_t mask) {
#if defined(SLIPSTREAM_EMULATED)
  return _mm512_maskz_expand_epi8(mask, codes);
#else
  __m512i out;
  __asm__("vpexpandb %1, %0%{%2%}%{z%}" : "=v"(out) : "v"(codes), "Yk"(__mmask64(mask)));
  return out;
#endif
}
struct ByInstruction {
  static constexpr bool nibbles = true;
  SLIPSTREAM_INLINE static Bytes expand(const std::byte* p, uint64_t mask) {
    return {expand_register(_mm512_loadu_si512(p), mask)};
  }
  SLIPSTREAM_INLINE static Bytes expand_nibbles(const std::byte* p, uint64_t mask) {
    const __m512i pairs =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const __m512i both = _mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 4));
    return {expand_register(_mm512_and_si512(both, _mm512_set1_epi8(15)), mask)};
  }
};
SLIPSTREAM_INLINE Bytes from_zero(Bytes b) { return {_mm512_xor_si512(b.v, _mm512_set1_epi8(8))}; }

#elif defined(SLIPSTREAM_ISA_AVX2)

struct ByTable {
  static constexpr bool nibbles = false;
  SLIPSTREAM_INLINE static Bytes expand(const std::byte* p, uint64_t mask) {
    const auto low = uint32_t(mask), high = uint32_t(mask >> 32);
    return {expand_half(p, low), expand_half(p + __builtin_popcount(low), high)};
  }
};
SLIPSTREAM_INLINE Bytes from_zero(Bytes b) {
  const __m256i eight = _mm256_set1_epi8(8);
  return {_mm256_xor_si256(b.lo, eight), _mm256_xor_si256(b.hi, eight)};
}

#elif defined(SLIPSTREAM_ISA_NEON)

struct ByTable {
  static constexpr bool nibbles = false;
  SLIPSTREAM_INLINE static uint8x16_t sixteen(const uint8_t* p, unsigned mask) {
    const unsigned low = mask & 255, high = mask >> 8 & 255;
    const uint8_t* second = p + __builtin_popcount(low);
    return vqtbl1q_u8(
        vcombine_u8(vld1_u8(p), vld1_u8(second)),
        vcombine_u8(vld1_u8(kExpandTable.first[low]), vld1_u8(kExpandTable.second[high])));
  }
  SLIPSTREAM_INLINE static Bytes expand(const std::byte* p, uint64_t mask) {
    const auto* codes = reinterpret_cast<const uint8_t*>(p);
    Bytes out;
    SLIPSTREAM_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
      const auto part = unsigned(mask >> (16 * i) & 0xffff);
      out.v[i] = sixteen(codes, part);
      codes += __builtin_popcount(part);
    }
    return out;
  }
};
SLIPSTREAM_INLINE void widen_nibbles(const std::byte* p, int64_t count, std::byte* out) {
  const auto* pairs = reinterpret_cast<const uint8_t*>(p);
  auto* codes = reinterpret_cast<uint8_t*>(out);
  for (int64_t i = 0; i < count; i += 16) {
    const uint8x16_t both = vld1q_u8(pairs + i);
    const uint8x16_t low = vandq_u8(both, vdupq_n_u8(15)), high = vshrq_n_u8(both, 4);
    vst1q_u8(codes + 2 * i, vzip1q_u8(low, high));
    vst1q_u8(codes + 2 * i + 16, vzip2q_u8(low, high));
  }
}
SLIPSTREAM_INLINE Bytes from_zero(Bytes b) {
  SLIPSTREAM_EACH_FOUR(Bytes, veorq_u8(b.v[i], vdupq_n_u8(8)));
}

#else

struct ByTable {
  static constexpr bool nibbles = false;
  SLIPSTREAM_INLINE static Bytes expand(const std::byte* p, uint64_t mask) {
    Bytes out{};
    for (int i = 0; i < 64; ++i)
      if (mask >> i & 1) out.code[i] = uint8_t(*p++);
    return out;
  }
};
SLIPSTREAM_INLINE void widen_nibbles(const std::byte* p, int64_t count, std::byte* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[2 * i] = p[i] & std::byte(15);
    out[2 * i + 1] = p[i] >> 4;
  }
}
SLIPSTREAM_INLINE Bytes from_zero(Bytes b) {
  for (uint8_t& code : b.code) code ^= 8;
  return b;
}

#endif

}  // namespace slipstream::SLIPSTREAM_ISA
