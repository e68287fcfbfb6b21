// The AVX-512 intrinsics that vec_avx512.h and bytes_avx512.h use, as plain loops over memory.
// Test builds compile those files over this one (with AVX2 flags), so that their logic is checked
// bit for bit on machines without AVX-512. Each function follows Intel's description of its
// instruction; an intrinsic that is missing here does not compile.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace slipstream::emulated {

template <class Element>
struct Lanes {  // one register seen as 64 / sizeof(Element) elements
  static constexpr int count = 64 / int(sizeof(Element));
  Element lane[count];
};
template <class Element, class Register>
Lanes<Element> lanes(Register v) {
  Lanes<Element> out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}
template <class Register, class Element>
Register pack(const Lanes<Element>& v) {
  Register out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}
template <class Element, class Register, class Operation>
Register map(Register a, Register b, Operation operation) {
  Lanes<Element> x = lanes<Element>(a);
  const Lanes<Element> y = lanes<Element>(b);
  for (int i = 0; i < Lanes<Element>::count; ++i) x.lane[i] = operation(x.lane[i], y.lane[i]);
  return pack<Register>(x);
}

inline __m512 join(__m256 low, __m256 high) {
  __m512 out;
  std::memcpy(&out, &low, 32);
  std::memcpy(reinterpret_cast<char*>(&out) + 32, &high, 32);
  return out;
}
template <class Register>
Register half(const void* whole, int which) {
  Register out;
  std::memcpy(&out, static_cast<const char*>(whole) + 32 * which, 32);
  return out;
}

inline __m512 set1_ps(float x) { return join(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
inline __m512 setzero_ps() { return set1_ps(0.0f); }
template <class Element>
__m512i set1(Element x) {
  Lanes<Element> out;
  for (Element& lane : out.lane) lane = x;
  return pack<__m512i>(out);
}
inline __m512i set1_epi32(int32_t x) { return set1<int32_t>(x); }
inline __m512i set1_epi8(char x) { return set1<char>(x); }
inline __m512i set1_epi64(int64_t x) { return set1<int64_t>(x); }
inline __m512i setzero_si512() { return set1_epi32(0); }

inline __m512 loadu_ps(const void* p) {
  __m512 out;
  std::memcpy(&out, p, 64);
  return out;
}
inline __m512i loadu_si512(const void* p) {
  __m512i out;
  std::memcpy(&out, p, 64);
  return out;
}
inline void storeu_ps(void* p, __m512 v) { std::memcpy(p, &v, 64); }
inline void storeu_si512(void* p, __m512i v) { std::memcpy(p, &v, 64); }
inline __m512 maskz_loadu_ps(__mmask16 mask, const float* p) {
  Lanes<float> out{};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) out.lane[i] = p[i];
  return pack<__m512>(out);
}
inline void mask_storeu_ps(float* p, __mmask16 mask, __m512 v) {
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) p[i] = lanes<float>(v).lane[i];
}

inline __m512 castsi512_ps(__m512i v) { return loadu_ps(&v); }
inline __m512i castps_si512(__m512 v) { return loadu_si512(&v); }
inline __m256 castps512_ps256(__m512 v) { return half<__m256>(&v, 0); }
inline __m256i castsi512_si256(__m512i v) { return half<__m256i>(&v, 0); }
inline __m256 extractf32x8_ps(__m512 v, int which) { return half<__m256>(&v, which); }

inline __m512 add_ps(__m512 a, __m512 b) {
  return map<float>(a, b, [](float x, float y) { return x + y; });
}
inline __m512 sub_ps(__m512 a, __m512 b) {
  return map<float>(a, b, [](float x, float y) { return x - y; });
}
inline __m512 mul_ps(__m512 a, __m512 b) {
  return map<float>(a, b, [](float x, float y) { return x * y; });
}
inline __m512 div_ps(__m512 a, __m512 b) {
  return map<float>(a, b, [](float x, float y) { return x / y; });
}
inline __m512 min_ps(__m512 a, __m512 b) {
  return map<float>(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline __m512 max_ps(__m512 a, __m512 b) {
  return map<float>(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline __m512 sqrt_ps(__m512 a) {
  return map<float>(a, a, [](float x, float) { return std::sqrt(x); });
}
inline __m512 roundscale_ps(__m512 a, int) {  // only called with mode: nearest even, scale 0
  return map<float>(a, a, [](float x, float) { return std::nearbyint(x); });
}
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  Lanes<float> x = lanes<float>(a);
  for (int i = 0; i < 16; ++i)
    x.lane[i] = std::fma(x.lane[i], lanes<float>(b).lane[i], lanes<float>(c).lane[i]);
  return pack<__m512>(x);
}

inline __m512i add_epi32(__m512i a, __m512i b) {
  return map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
inline __m512i sub_epi32(__m512i a, __m512i b) {
  return map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x - y; });
}
inline __m512i and_si512(__m512i a, __m512i b) {
  return map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x & y; });
}
inline __m512i or_si512(__m512i a, __m512i b) {
  return map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x | y; });
}
inline __m512i xor_si512(__m512i a, __m512i b) {
  return map<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x ^ y; });
}
inline __m512i max_epi32(__m512i a, __m512i b) {
  return map<int32_t>(a, b, [](int32_t x, int32_t y) { return x > y ? x : y; });
}
inline __m512i slli_epi32(__m512i a, unsigned n) {
  return map<uint32_t>(a, a, [n](uint32_t x, uint32_t) { return x << n; });
}
inline __m512i srli_epi32(__m512i a, unsigned n) {
  return map<uint32_t>(a, a, [n](uint32_t x, uint32_t) { return x >> n; });
}
inline __m512i srai_epi32(__m512i a, unsigned n) {
  return map<int32_t>(a, a, [n](int32_t x, int32_t) { return x >> n; });
}

inline __m512 cvtepi32_ps(__m512i a) {
  const Lanes<int32_t> x = lanes<int32_t>(a);
  Lanes<float> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = float(x.lane[i]);
  return pack<__m512>(out);
}
inline __m512i cvtps_epi32(__m512 a) {
  const Lanes<float> x = lanes<float>(a);
  Lanes<int32_t> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = _mm_cvtss_si32(_mm_set_ss(x.lane[i]));
  return pack<__m512i>(out);
}
inline __m512i cvtepu16_epi32(__m256i a) {
  uint16_t x[16];
  std::memcpy(x, &a, 32);
  Lanes<uint32_t> out;
  for (int i = 0; i < 16; ++i) out.lane[i] = x[i];
  return pack<__m512i>(out);
}
inline __m512 cvtph_ps(__m256i a) {
  const __m128i high = _mm256_extracti128_si256(a, 1);
  return join(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(high));
}
inline __m256i cvtepi32_epi16(__m512i a) {  // truncates
  const Lanes<uint32_t> x = lanes<uint32_t>(a);
  uint16_t low[16];
  for (int i = 0; i < 16; ++i) low[i] = uint16_t(x.lane[i]);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low));
}
inline __m512i cvtepu8_epi16(__m256i a) {
  uint8_t bytes[32];
  std::memcpy(bytes, &a, 32);
  Lanes<uint16_t> out;
  for (int i = 0; i < 32; ++i) out.lane[i] = bytes[i];
  return pack<__m512i>(out);
}
template <class Byte>
__m512i widen_bytes(__m128i a) {
  Lanes<int32_t> out;
  Byte bytes[16];
  std::memcpy(bytes, &a, 16);
  for (int i = 0; i < 16; ++i) out.lane[i] = bytes[i];
  return pack<__m512i>(out);
}
inline __m512i cvtepi8_epi32(__m128i a) { return widen_bytes<int8_t>(a); }
inline __m512i cvtepu8_epi32(__m128i a) { return widen_bytes<uint8_t>(a); }
inline __m128i cvtepi32_epi8(__m512i a) {  // truncates
  const Lanes<uint32_t> x = lanes<uint32_t>(a);
  uint8_t low[16];
  for (int i = 0; i < 16; ++i) low[i] = uint8_t(x.lane[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
}

inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  const Lanes<float> x = lanes<float>(a), y = lanes<float>(b);
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) {
    const bool unordered = std::isnan(x.lane[i]) || std::isnan(y.lane[i]);
    const bool hit = predicate == _CMP_UNORD_Q ? unordered : x.lane[i] < y.lane[i];
    mask |= unsigned(hit) << i;
  }
  return __mmask16(mask);
}
inline __mmask16 cmpgt_epi32_mask(__m512i a, __m512i b) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i)
    mask |= unsigned(lanes<int32_t>(a).lane[i] > lanes<int32_t>(b).lane[i]) << i;
  return __mmask16(mask);
}
inline __m512 mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
  Lanes<float> x = lanes<float>(a);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) x.lane[i] = lanes<float>(b).lane[i];
  return pack<__m512>(x);
}
inline __m512i mask_blend_epi32(__mmask16 mask, __m512i a, __m512i b) {
  return castps_si512(mask_blend_ps(mask, castsi512_ps(a), castsi512_ps(b)));
}

inline __m512i broadcast_i32x4(__m128i a) {
  const __m256i twice = _mm256_broadcastsi128_si256(a);
  __m512i out;
  std::memcpy(&out, &twice, 32);
  std::memcpy(reinterpret_cast<char*>(&out) + 32, &twice, 32);
  return out;
}
inline __m512i castsi256_si512(__m256i a) {  // the upper half is undefined: here not zero
  __m512i out;
  std::memset(&out, 0x55, 64);
  std::memcpy(&out, &a, 32);
  return out;
}
inline __m512i inserti64x4(__m512i a, __m256i b, int which) {
  std::memcpy(reinterpret_cast<char*>(&a) + 32 * which, &b, 32);
  return a;
}
// VPSHUFB: within each 16 bytes, by the low four bits of the index; 0 where its top bit is set.
inline __m512i shuffle_epi8(__m512i table, __m512i index) {
  const Lanes<uint8_t> x = lanes<uint8_t>(table), at = lanes<uint8_t>(index);
  Lanes<uint8_t> out;
  for (int i = 0; i < 64; ++i)
    out.lane[i] = at.lane[i] & 0x80 ? 0 : x.lane[i / 16 * 16 + (at.lane[i] & 15)];
  return pack<__m512i>(out);
}

inline __m512i maskz_shuffle_epi8(__mmask64 mask, __m512i table, __m512i index) {
  Lanes<uint8_t> out = lanes<uint8_t>(shuffle_epi8(table, index));
  for (int i = 0; i < 64; ++i)
    if (!(mask >> i & 1)) out.lane[i] = 0;
  return pack<__m512i>(out);
}
inline __mmask64 cmpeq_epi8_mask(__m512i a, __m512i b) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i)
    mask |= uint64_t(lanes<uint8_t>(a).lane[i] == lanes<uint8_t>(b).lane[i]) << i;
  return __mmask64(mask);
}

// VPEXPANDB: the bytes from the first on, in turn, where the mask is set; zeros elsewhere.
inline __m512i maskz_expand_epi8(__mmask64 mask, __m512i a) {
  const Lanes<uint8_t> kept = lanes<uint8_t>(a);
  Lanes<uint8_t> out{};
  for (int i = 0, next = 0; i < 64; ++i)
    if (mask >> i & 1) out.lane[i] = kept.lane[next++];
  return pack<__m512i>(out);
}

// VPDPBUSD: each 32-bit lane gains the sum of four unsigned (a) × signed (b) byte products.
inline __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  Lanes<int32_t> out = lanes<int32_t>(sum);
  const Lanes<uint8_t> x = lanes<uint8_t>(a);
  const Lanes<int8_t> y = lanes<int8_t>(b);
  for (int i = 0; i < 64; ++i) out.lane[i / 4] += int32_t(x.lane[i]) * int32_t(y.lane[i]);
  return pack<__m512i>(out);
}

}  // namespace slipstream::emulated

#define _mm512_set1_ps ::slipstream::emulated::set1_ps
#define _mm512_cvtepi8_epi32 ::slipstream::emulated::cvtepi8_epi32
#define _mm512_cvtepu8_epi32 ::slipstream::emulated::cvtepu8_epi32
#define _mm512_setzero_ps ::slipstream::emulated::setzero_ps
#define _mm512_set1_epi32 ::slipstream::emulated::set1_epi32
#define _mm512_set1_epi8 ::slipstream::emulated::set1_epi8
#define _mm512_set1_epi64 ::slipstream::emulated::set1_epi64
#define _mm512_setzero_si512 ::slipstream::emulated::setzero_si512
#define _mm512_loadu_ps ::slipstream::emulated::loadu_ps
#define _mm512_loadu_si512 ::slipstream::emulated::loadu_si512
#define _mm512_storeu_ps ::slipstream::emulated::storeu_ps
#define _mm512_storeu_si512 ::slipstream::emulated::storeu_si512
#define _mm512_maskz_loadu_ps ::slipstream::emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps ::slipstream::emulated::mask_storeu_ps
#define _mm512_castsi512_ps ::slipstream::emulated::castsi512_ps
#define _mm512_castps_si512 ::slipstream::emulated::castps_si512
#define _mm512_castps512_ps256 ::slipstream::emulated::castps512_ps256
#define _mm512_castsi512_si256 ::slipstream::emulated::castsi512_si256
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps ::slipstream::emulated::extractf32x8_ps
#define _mm512_add_ps ::slipstream::emulated::add_ps
#define _mm512_sub_ps ::slipstream::emulated::sub_ps
#define _mm512_mul_ps ::slipstream::emulated::mul_ps
#define _mm512_div_ps ::slipstream::emulated::div_ps
#define _mm512_min_ps ::slipstream::emulated::min_ps
#define _mm512_max_ps ::slipstream::emulated::max_ps
#define _mm512_sqrt_ps ::slipstream::emulated::sqrt_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps ::slipstream::emulated::roundscale_ps
#define _mm512_fmadd_ps ::slipstream::emulated::fmadd_ps
#define _mm512_add_epi32 ::slipstream::emulated::add_epi32
#define _mm512_sub_epi32 ::slipstream::emulated::sub_epi32
#define _mm512_and_si512 ::slipstream::emulated::and_si512
#define _mm512_or_si512 ::slipstream::emulated::or_si512
#define _mm512_xor_si512 ::slipstream::emulated::xor_si512
#define _mm512_max_epi32 ::slipstream::emulated::max_epi32
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 ::slipstream::emulated::slli_epi32
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 ::slipstream::emulated::srli_epi32
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 ::slipstream::emulated::srai_epi32
#define _mm512_cvtepi32_ps ::slipstream::emulated::cvtepi32_ps
#define _mm512_cvtps_epi32 ::slipstream::emulated::cvtps_epi32
#define _mm512_cvtepu16_epi32 ::slipstream::emulated::cvtepu16_epi32
#define _mm512_cvtph_ps ::slipstream::emulated::cvtph_ps
#define _mm512_cvtepi32_epi16 ::slipstream::emulated::cvtepi32_epi16
#define _mm512_cvtepi32_epi8 ::slipstream::emulated::cvtepi32_epi8
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask ::slipstream::emulated::cmp_ps_mask
#define _mm512_cmpgt_epi32_mask ::slipstream::emulated::cmpgt_epi32_mask
#define _mm512_mask_blend_ps ::slipstream::emulated::mask_blend_ps
#define _mm512_mask_blend_epi32 ::slipstream::emulated::mask_blend_epi32
#define _mm512_broadcast_i32x4 ::slipstream::emulated::broadcast_i32x4
#define _mm512_castsi256_si512 ::slipstream::emulated::castsi256_si512
#undef _mm512_inserti64x4
#define _mm512_inserti64x4 ::slipstream::emulated::inserti64x4
#define _mm512_shuffle_epi8 ::slipstream::emulated::shuffle_epi8
#define _mm512_maskz_shuffle_epi8 ::slipstream::emulated::maskz_shuffle_epi8
#define _mm512_cmpeq_epi8_mask ::slipstream::emulated::cmpeq_epi8_mask
#define _mm512_maskz_expand_epi8 ::slipstream::emulated::maskz_expand_epi8
#define _mm512_cvtepu8_epi16 ::slipstream::emulated::cvtepu8_epi16
#define _mm512_dpbusd_epi32 ::slipstream::emulated::dpbusd_epi32
