// The loops that the probes time: reading memory, and multiply-adds at full rate from registers.
//
// Each loop is compiled for its own instruction set with the target attribute, so this file needs
// no special flags; `probe.cpp` calls only those that the processor has. A loop returns what it
// did (bytes or operations; a multiply-add is two); its result goes to a sink that the compiler
// cannot see through, so nothing is optimized away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define PROBE_TARGET(names) __attribute__((target(names), noinline))
#endif

// GCC 12 wrongly warns inside its own AVX-512 header (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace slipstream::probe {

// Says to the compiler that `value` is read and written, at no cost.
template <typename T>
inline void keep(T& value) {
  asm volatile("" : "+m"(value) : : "memory");
}

// ---- portable ---------------------------------------------------------------------------------

inline size_t read_portable(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; ++lane) sums[lane] ^= words[i + lane];
  keep(sums);
  return count * sizeof(uint64_t);
}

// 64 chains of acc = acc * x + y, which every compiler vectorizes.
inline double f32_portable(size_t turns) {
  float sums[64] = {};
  float factor = 0.5f;
  keep(factor);
  for (size_t turn = 0; turn < turns; ++turn)
    for (float& sum : sums) sum = sum * factor + 1.0f;
  keep(sums);
  return 2.0 * 64 * turns;
}

inline double int8_portable(size_t turns) {
  int32_t sums[16] = {};
  int8_t left[64], right[64];
  std::memset(left, 3, sizeof left);
  std::memset(right, 5, sizeof right);
  for (size_t turn = 0; turn < turns; ++turn) {
    keep(left);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 4; ++j) sums[i] += left[4 * i + j] * right[4 * i + j];
  }
  keep(sums);
  return 2.0 * 64 * turns;
}

inline double bf16_portable(size_t turns) {
  float sums[16] = {};
  uint16_t weights[16];
  for (uint16_t& weight : weights) weight = 0x3f00;  // 0.5
  for (size_t turn = 0; turn < turns; ++turn) {
    keep(weights);
    for (int i = 0; i < 16; ++i) {
      uint32_t bits = static_cast<uint32_t>(weights[i]) << 16;
      float weight;
      std::memcpy(&weight, &bits, sizeof weight);
      sums[i] = sums[i] * weight + 1.0f;
    }
  }
  keep(sums);
  return 2.0 * 16 * turns;
}

#if defined(__x86_64__)

// ---- AVX2 ---------------------------------------------------------------------------------------

PROBE_TARGET("avx2,fma")
inline size_t read_avx2(const uint64_t* words, size_t count) {
  const __m256i* lines = reinterpret_cast<const __m256i*>(words);
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i + 8 <= count / 4; i += 8) {
    a = _mm256_xor_si256(a, _mm256_xor_si256(lines[i], lines[i + 1]));
    b = _mm256_xor_si256(b, _mm256_xor_si256(lines[i + 2], lines[i + 3]));
    c = _mm256_xor_si256(c, _mm256_xor_si256(lines[i + 4], lines[i + 5]));
    d = _mm256_xor_si256(d, _mm256_xor_si256(lines[i + 6], lines[i + 7]));
  }
  a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  keep(a);
  return count * sizeof(uint64_t);
}

// Ten chains hide the latency of four cycles at two multiply-adds per cycle.
PROBE_TARGET("avx2,fma")
inline double f32_avx2(size_t turns) {
  __m256 sums[10], factor = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
  keep(factor);
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for (size_t turn = 0; turn < turns; ++turn)
#pragma GCC unroll 10
    for (int i = 0; i < 10; ++i) sums[i] = _mm256_fmadd_ps(sums[i], factor, one);
  keep(sums);
  return 2.0 * 8 * 10 * turns;
}

// maddubs makes 16-bit sums of two products; eight of them (codes 0…15 times -127…127) fit in 16
// bits before one madd widens them: the densest integer product that AVX2 offers.
PROBE_TARGET("avx2,fma")
inline double int8_avx2(size_t turns) {
  __m256i sums[4], codes = _mm256_set1_epi8(7), values = _mm256_set1_epi8(3);
  const __m256i ones = _mm256_set1_epi16(1);
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (size_t turn = 0; turn < turns; ++turn) {
    __m256i narrow[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) narrow[i] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int step = 0; step < 8; ++step)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        asm volatile("" : "+x"(codes), "+x"(narrow[i]));  // each product is computed anew
        narrow[i] = _mm256_add_epi16(narrow[i], _mm256_maddubs_epi16(codes, values));
      }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(narrow[i], ones));
  }
  keep(sums);
  return 2.0 * 32 * 4 * 8 * turns;
}

// Two weights in 32 bits: a shift and a mask make floats of them, then two multiply-adds.
PROBE_TARGET("avx2,fma")
inline double bf16_avx2(size_t turns) {
  __m256 sums[10], value = _mm256_set1_ps(0.25f);
  __m256i weights = _mm256_set1_epi32(0x3f003f00);
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for (size_t turn = 0; turn < turns; ++turn)
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) {
      asm volatile("" : "+x"(weights));
      __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(weights, 16));
      __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(weights, high));
      sums[2 * i] = _mm256_fmadd_ps(even, value, sums[2 * i]);
      sums[2 * i + 1] = _mm256_fmadd_ps(odd, value, sums[2 * i + 1]);
    }
  keep(sums);
  return 2.0 * 8 * 10 * turns;
}

// ---- AVX-512 ------------------------------------------------------------------------------------

PROBE_TARGET("avx512f,avx512bw")
inline size_t read_avx512(const uint64_t* words, size_t count) {
  const __m512i* lines = reinterpret_cast<const __m512i*>(words);
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i + 4 <= count / 8; i += 4) {
    a = _mm512_xor_si512(a, lines[i]);
    b = _mm512_xor_si512(b, lines[i + 1]);
    c = _mm512_xor_si512(c, lines[i + 2]);
    d = _mm512_xor_si512(d, lines[i + 3]);
  }
  a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  keep(a);
  return count * sizeof(uint64_t);
}

PROBE_TARGET("avx512f,avx512bw")
inline double f32_avx512(size_t turns) {
  __m512 sums[12], factor = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
  keep(factor);
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (size_t turn = 0; turn < turns; ++turn)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm512_fmadd_ps(sums[i], factor, one);
  keep(sums);
  return 2.0 * 16 * 12 * turns;
}

PROBE_TARGET("avx512f,avx512bw,avx512vnni")
inline double int8_vnni(size_t turns) {
  __m512i sums[12], codes = _mm512_set1_epi8(7), values = _mm512_set1_epi8(3);
  keep(codes);
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (size_t turn = 0; turn < turns; ++turn)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], codes, values);
  keep(sums);
  return 2.0 * 64 * 12 * turns;
}

PROBE_TARGET("avx512f,avx512bw")
inline double bf16_avx512(size_t turns) {
  __m512 sums[12], value = _mm512_set1_ps(0.25f);
  __m512i weights = _mm512_set1_epi32(0x3f003f00);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (size_t turn = 0; turn < turns; ++turn)
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
      asm volatile("" : "+v"(weights));
      __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(weights, 16));
      __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(weights, high));
      sums[2 * i] = _mm512_fmadd_ps(even, value, sums[2 * i]);
      sums[2 * i + 1] = _mm512_fmadd_ps(odd, value, sums[2 * i + 1]);
    }
  keep(sums);
  return 2.0 * 16 * 12 * turns;
}

// ---- AMX ----------------------------------------------------------------------------------------

// Every tile 16 rows of 64 bytes. The instruction is written out because the intrinsic of GCC 12
// does not tell the compiler that it reads `config`, whose stores may then be dropped.
PROBE_TARGET("amx-tile")
inline void amx_begin() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

// Four sums from two left and two right tiles, as a matrix product would hold them.
PROBE_TARGET("amx-tile,amx-int8")
inline double int8_amx(size_t turns) {
  amx_begin();
  alignas(64) uint8_t tile[1024];
  std::memset(tile, 3, sizeof tile);
  keep(tile);
  _tile_loadd(4, tile, 64);
  _tile_loadd(5, tile, 64);
  _tile_loadd(6, tile, 64);
  _tile_loadd(7, tile, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t turn = 0; turn < turns; ++turn) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 16 * 16 * 64 * 4 * turns;
}

PROBE_TARGET("amx-tile,amx-bf16")
inline double bf16_amx(size_t turns) {
  amx_begin();
  alignas(64) uint8_t tile[1024];
  std::memset(tile, 0, sizeof tile);
  keep(tile);
  _tile_loadd(4, tile, 64);
  _tile_loadd(5, tile, 64);
  _tile_loadd(6, tile, 64);
  _tile_loadd(7, tile, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t turn = 0; turn < turns; ++turn) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 16 * 16 * 32 * 4 * turns;
}

#endif  // __x86_64__

}  // namespace slipstream::probe

#pragma GCC diagnostic pop
