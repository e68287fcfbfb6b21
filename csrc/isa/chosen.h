// Products of codes with inputs that each code chooses: the vector interface of sparse weights. An
// octet is eight inputs of sixteen outputs, of which four codes a lane are kept, two of each four
// inputs; a code's place says which of the eight inputs it belongs to.
//
//   Octet load_octet(p)           eight activations, given to every lane
//   Bytes places<half>(p)         of 32 bytes: two bits a code, bits 4·half and 4·half + 2 on;
//   codes
//                                 2 and 3 of a lane belong to the second four inputs
//   ChosenSum add_chosen(sum, w, a, places), from no_chosen() on; widen(sum) → i32x16: Σ q·a
//   Bytes spread<first>(b, places)  codes first and first + 1 of each lane at the places of their
//                                 four inputs, zeros elsewhere: one step as isa/bytes.h has it
#pragma once

#include "isa/bytes.h"

namespace slipstream::SLIPSTREAM_ISA {

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)

struct Octet {
  __m512i v;
};
// Σ (q + 128)·a and Σ 128·a: which inputs a lane sums is its own, so no sum of the row helps.
struct ChosenSum {
  __m512i shifted = _mm512_setzero_si512(), shift = _mm512_setzero_si512();
};

SLIPSTREAM_INLINE Octet load_octet(const int8_t* p) {
  int64_t eight;
  std::memcpy(&eight, p, 8);
  return {_mm512_set1_epi64(eight)};
}
template <int half>
SLIPSTREAM_INLINE Bytes places(const void* p) {
  const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  const __m256i upper = _mm256_srli_epi32(bits, 2);
  const Bytes both = {_mm512_inserti64x4(_mm512_castsi256_si512(bits), upper, 1)};
  return field<4 * half, 0, 3>(both) | Bytes{_mm512_set1_epi32(0x04040000)};
}
SLIPSTREAM_INLINE ChosenSum add_chosen(const ChosenSum& sum, const SignedBytes& w, const Octet& a,
                                       const Bytes& at) {
  const __m512i chosen = _mm512_shuffle_epi8(a.v, at.v);
  return {_mm512_dpbusd_epi32(sum.shifted, w.v, chosen),
          _mm512_dpbusd_epi32(sum.shift, _mm512_set1_epi8(char(-128)), chosen)};
}
SLIPSTREAM_INLINE i32x16 widen(const ChosenSum& sum) {
  return {_mm512_sub_epi32(sum.shifted, sum.shift)};
}
template <int first>
SLIPSTREAM_INLINE Bytes spread(const Bytes& codes, const Bytes& at) {
  constexpr int32_t base = first == 0 ? 0x03020100 : 0x07060504;
  const __m512i lanes =
      _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  const __m512i one = _mm512_or_si512(lanes, _mm512_set1_epi8(first));
  const __m512i two = _mm512_or_si512(lanes, _mm512_set1_epi8(first + 1));
  const __m512i inputs = _mm512_set1_epi32(base);
  const auto first_at = _mm512_cmpeq_epi8_mask(_mm512_shuffle_epi8(at.v, one), inputs);
  const auto second_at = _mm512_cmpeq_epi8_mask(_mm512_shuffle_epi8(at.v, two), inputs);
  return Bytes{_mm512_maskz_shuffle_epi8(first_at, codes.v, one)} |
         Bytes{_mm512_maskz_shuffle_epi8(second_at, codes.v, two)};
}

#elif defined(SLIPSTREAM_ISA_AVX2)

struct Octet {
  __m256i v;
};
struct ChosenSum {
  __m256i lo = _mm256_setzero_si256(), hi = _mm256_setzero_si256();
};

SLIPSTREAM_INLINE Octet load_octet(const int8_t* p) {
  int64_t eight;
  std::memcpy(&eight, p, 8);
  return {_mm256_set1_epi64x(eight)};
}
template <int half>
SLIPSTREAM_INLINE Bytes places(const void* p) {
  const __m256i bits = load_256(p), second = _mm256_set1_epi32(0x04040000);
  return {_mm256_or_si256(field_of<4 * half, 0, 3>(bits), second),
          _mm256_or_si256(field_of<4 * half + 2, 0, 3>(bits), second)};
}
SLIPSTREAM_INLINE ChosenSum add_chosen(const ChosenSum& sum, const SignedBytes& w, const Octet& a,
                                       const Bytes& at) {
  const __m256i lo = _mm256_shuffle_epi8(a.v, at.lo), hi = _mm256_shuffle_epi8(a.v, at.hi);
  const i32x16 four = widen(NibbleSum{_mm256_maddubs_epi16(w.size_lo, _mm256_sign_epi8(lo, w.lo)),
                                      _mm256_maddubs_epi16(w.size_hi, _mm256_sign_epi8(hi, w.hi))});
  return {in_order(_mm256_add_epi32(sum.lo, four.lo)), in_order(_mm256_add_epi32(sum.hi, four.hi))};
}
SLIPSTREAM_INLINE i32x16 widen(const ChosenSum& sum) { return {sum.lo, sum.hi}; }
template <int first>
SLIPSTREAM_INLINE __m256i spread_of(__m256i codes, __m256i at) {
  constexpr int32_t base = first == 0 ? 0x03020100 : 0x07060504;
  const __m256i lanes = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                          0x08080808, 0x0c0c0c0c);
  const __m256i one = _mm256_or_si256(lanes, _mm256_set1_epi8(first));
  const __m256i two = _mm256_or_si256(lanes, _mm256_set1_epi8(first + 1));
  const __m256i inputs = _mm256_set1_epi32(base);
  const __m256i first_at = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(at, one), inputs);
  const __m256i second_at = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(at, two), inputs);
  return _mm256_or_si256(_mm256_and_si256(first_at, _mm256_shuffle_epi8(codes, one)),
                         _mm256_and_si256(second_at, _mm256_shuffle_epi8(codes, two)));
}
template <int first>
SLIPSTREAM_INLINE Bytes spread(const Bytes& codes, const Bytes& at) {
  return {spread_of<first>(codes.lo, at.lo), spread_of<first>(codes.hi, at.hi)};
}

#elif defined(SLIPSTREAM_ISA_NEON)

struct Octet {
  int8x16_t v;
};
using ChosenSum = i32x16;

SLIPSTREAM_INLINE Octet load_octet(const int8_t* p) {
  const int8x8_t eight = vld1_s8(p);
  return {vcombine_s8(eight, eight)};
}
template <int half>
SLIPSTREAM_INLINE Bytes places(const void* p) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  const uint8x16_t low = vld1q_u8(bytes), high = vld1q_u8(bytes + 16);
  const uint8x16_t second = vreinterpretq_u8_u32(vdupq_n_u32(0x04040000));
  return {{vorrq_u8(field_of<4 * half, 0, 3>(low), second),
           vorrq_u8(field_of<4 * half, 0, 3>(high), second),
           vorrq_u8(field_of<4 * half + 2, 0, 3>(low), second),
           vorrq_u8(field_of<4 * half + 2, 0, 3>(high), second)}};
}
SLIPSTREAM_INLINE ChosenSum add_chosen(const ChosenSum& sum, const SignedBytes& w, const Octet& a,
                                       const Bytes& at) {
  SLIPSTREAM_EACH_FOUR(i32x16, vdotq_s32(sum.v[i], w.v[i], vqtbl1q_s8(a.v, at.v[i])));
}
SLIPSTREAM_INLINE ChosenSum no_chosen() { return zero_i32(); }
template <int first>
SLIPSTREAM_INLINE uint8x16_t spread_of(uint8x16_t codes, uint8x16_t at) {
  constexpr uint32_t base = first == 0 ? 0x03020100 : 0x07060504;
  const uint32_t starts[4] = {0, 0x04040404, 0x08080808, 0x0c0c0c0c};
  const uint8x16_t lanes = vreinterpretq_u8_u32(vld1q_u32(starts));
  const uint8x16_t one = vorrq_u8(lanes, vdupq_n_u8(first));
  const uint8x16_t two = vorrq_u8(lanes, vdupq_n_u8(first + 1));
  const uint8x16_t inputs = vreinterpretq_u8_u32(vdupq_n_u32(base));
  const uint8x16_t first_at = vceqq_u8(vqtbl1q_u8(at, one), inputs);
  const uint8x16_t second_at = vceqq_u8(vqtbl1q_u8(at, two), inputs);
  return vorrq_u8(vandq_u8(first_at, vqtbl1q_u8(codes, one)),
                  vandq_u8(second_at, vqtbl1q_u8(codes, two)));
}
template <int first>
SLIPSTREAM_INLINE Bytes spread(const Bytes& codes, const Bytes& at) {
  SLIPSTREAM_EACH_FOUR(Bytes, spread_of<first>(codes.v[i], at.v[i]));
}

#else

struct Octet {
  int8_t input[8];
};
using ChosenSum = i32x16;

SLIPSTREAM_INLINE Octet load_octet(const int8_t* p) {
  Octet out;
  std::memcpy(out.input, p, 8);
  return out;
}
template <int half>
SLIPSTREAM_INLINE Bytes places(const void* p) {
  const auto* bits = static_cast<const uint8_t*>(p);
  Bytes out;
  for (int i = 0; i < 64; ++i)
    out.code[i] = uint8_t((bits[i % 32] >> (4 * half + i / 32 * 2) & 3) | (i % 4 < 2 ? 0 : 4));
  return out;
}
SLIPSTREAM_INLINE ChosenSum add_chosen(ChosenSum sum, const SignedBytes& w, const Octet& a,
                                       const Bytes& at) {
  for (int i = 0; i < 64; ++i) sum.lane[i / 4] += int32_t(w.code[i]) * a.input[at.code[i]];
  return sum;
}
SLIPSTREAM_INLINE ChosenSum no_chosen() { return zero_i32(); }
template <int first>
SLIPSTREAM_INLINE Bytes spread(const Bytes& codes, const Bytes& at) {
  Bytes out{};
  for (int i = first; i < 64; i += 4) {
    out.code[i / 4 * 4 + at.code[i] % 4] |= codes.code[i];
    out.code[i / 4 * 4 + at.code[i + 1] % 4] |= codes.code[i + 1];
  }
  return out;
}

#endif

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512) || defined(SLIPSTREAM_ISA_AVX2)
SLIPSTREAM_INLINE ChosenSum no_chosen() { return {}; }
#endif

}  // namespace slipstream::SLIPSTREAM_ISA
