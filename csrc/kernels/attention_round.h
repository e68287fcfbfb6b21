// Keys and values of one position on their way into codes: rotation, scale, rounding. For
// attention_isa.cpp only; compiled per instruction set.
//
// Keys, and values of four bits, are of the head times a Hadamard matrix, which spreads what sticks
// out over all dimensions (QuaRot, arXiv:2404.00456). Queries are rotated alike, so that products
// stay, and what attention gathers is rotated back: the matrix is its own inverse.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/chunks.h"

namespace slipstream::SLIPSTREAM_ISA {

// x[i], x[i + 1] → their sum and difference, for pairs `step` apart.
template <int Step>
SLIPSTREAM_INLINE void butterflies(float* x, int width) {
  for (int i = 0; i < width; i += 2 * Step) {
    for (int j = i; j < i + Step; ++j) {
      const float a = x[j];
      const float b = x[j + Step];
      x[j] = a + b;
      x[j + Step] = a - b;
    }
  }
}

SLIPSTREAM_INLINE void butterflies(float* x, int width, int step) {
  for (int i = 0; i < width; i += 2 * step) {
    for (int j = i; j < i + step; j += 16) {
      const f32x16 a = load(x + j);
      const f32x16 b = load(x + j + step);
      store(x + j, a + b);
      store(x + j + step, a - b);
    }
  }
}

// Each run of the largest power of two that divides head_dim, times its Hadamard matrix / √run.
inline void rotate_head(float* x, int head_dim) {
  const int run = head_dim & -head_dim;
  if (run >= 2) butterflies<1>(x, head_dim);
  if (run >= 4) butterflies<2>(x, head_dim);
  if (run >= 8) butterflies<4>(x, head_dim);
  if (run >= 16) butterflies<8>(x, head_dim);
  for (int step = 16; step < run; step *= 2) butterflies(x, head_dim, step);
  const f32x16 norm = set1(1.0f / __builtin_sqrtf(static_cast<float>(run)));
  for (int d = 0; d < head_dim; d += 16) {
    const int n = chunk_size(head_dim, d);
    store_chunk(x + d, load_chunk(x + d, n) * norm, n);
  }
}

struct Range {
  float low;
  float high;
  float poison;  // 0, or NaN where an element is not finite
};

SLIPSTREAM_INLINE Range range_of(const float* x, int head_dim) {
  f32x16 low = set1(x[0]);
  f32x16 high = low;
  f32x16 poison = zero_f32();
  for (int d = 0; d < head_dim; d += 16) {
    const int n = chunk_size(head_dim, d);
    const f32x16 v = load_chunk(x + d, n);
    poison = fma(v, zero_f32(), poison);
    if (n == 16) {
      low = min(v, low);
      high = max(v, high);
      continue;
    }
    for (int i = 0; i < n; ++i) {  // the rest of a short chunk reads as zero
      low = min(set1(x[d + i]), low);
      high = max(set1(x[d + i]), high);
    }
  }
  return {-max_of(zero_f32() - low), max_of(high), sum(poison)};
}

SLIPSTREAM_INLINE float stored_bf16(std::uint16_t* p, float x) {
  store_bf16(p, set1(x), 1);
  alignas(64) float lanes[16];
  store(lanes, load_bf16(p, 1));
  return lanes[0];
}

SLIPSTREAM_INLINE f32x16 divisor(float scale) { return set1(scale > 0.0f ? scale : 1.0f); }

// Codes of 16 elements, held within low … high.
SLIPSTREAM_INLINE i32x16 codes_of(f32x16 x, f32x16 scale, float low, float high) {
  return to_i32(min(max(x / scale, set1(low)), set1(high)));
}

// Eight bits: codes [head_dim]; the scale goes to `scales`.
inline void round_int8(const float* x, int head_dim, std::int8_t* codes, std::uint16_t* scales) {
  const Range range = range_of(x, head_dim);
  const float size = range.high > -range.low ? range.high : -range.low;
  const float scale = stored_bf16(scales, size / 127.0f + range.poison);
  for (int d = 0; d < head_dim; d += 16) {
    const f32x16 v = load_chunk(x + d, chunk_size(head_dim, d));
    store_i8(codes + d, codes_of(v, divisor(scale), -127.0f, 127.0f));
  }
}

// Four bits: codes [head_dim], one to a byte; scale and minimum go to scales[0] and scales[64].
inline void round_int4(const float* x, int head_dim, std::int8_t* codes, std::uint16_t* scales) {
  const Range range = range_of(x, head_dim);
  const float low = stored_bf16(scales + kTile, range.low + range.poison);
  const float width = range.high > low ? range.high - low : 0.0f;
  const float scale = stored_bf16(scales, width / 15.0f + range.poison);
  for (int d = 0; d < head_dim; d += 16) {
    const f32x16 v = load_chunk(x + d, chunk_size(head_dim, d)) - set1(low);
    store_i8(codes + d, codes_of(v, divisor(scale), 0.0f, 15.0f));
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
