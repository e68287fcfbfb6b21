// Rounding of rows to int8 with a scale per group (linear.h's ActivationBlock), compiled per
// instruction set.
#pragma once

#include "isa/vec.h"
#include "kernels/linear.h"

namespace slipstream::SLIPSTREAM_ISA {

SLIPSTREAM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The largest |x| of n floats as bits: as integers, NaN > infinity > every number.
SLIPSTREAM_INLINE int32_t largest_bits(const float* x, int64_t n) {
  i32x16 largest = zero_i32();
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) largest = max_i32(largest, as_i32(abs(load(x + k))));
  if (k < n) largest = max_i32(largest, as_i32(abs(load(x + k, int(n - k)))));
  return max_of_i32(largest);
}

struct Rounding {
  float scale;    // what a code is worth
  float inverse;  // what turns a value into a code
  bool finite;
};

SLIPSTREAM_INLINE Rounding rounding_of(int32_t largest) {
  constexpr int32_t infinity = 0x7f800000;
  float maximum;
  __builtin_memcpy(&maximum, &largest, 4);
  if (largest >= infinity) return {__builtin_nanf(""), 0.0f, false};
  const float inverse = largest > 0 ? 127.0f / maximum : 0.0f;
  const bool overflows = inverse > 3.4028234e38f;
  return {maximum / 127.0f, overflows ? 0.0f : inverse, true};
}

// The same for a scale that was fixed beforehand.
SLIPSTREAM_INLINE Rounding rounding_by(float scale, int32_t largest) {
  constexpr int32_t infinity = 0x7f800000;
  if (largest >= infinity) return {__builtin_nanf(""), 0.0f, false};
  return {scale, 1.0f / scale, true};
}

// Codes of up to n floats, 16 at a time (the rest of the last 16 are zero); returns their sum.
template <bool clipped>
SLIPSTREAM_INLINE int32_t round_codes(const float* x, int64_t n, Rounding rounding, int8_t* codes) {
  if (!rounding.finite) {
    for (int64_t k = 0; k < n; k += kLanes) store_i8(codes + k, zero_i32());
    return 0;
  }
  const f32x16 inverse = set1(rounding.inverse);
  i32x16 sums = zero_i32();
  for (int64_t k = 0; k < n; k += kLanes) {
    const f32x16 values = k + kLanes <= n ? load(x + k) : load(x + k, int(n - k));
    f32x16 scaled = values * inverse;
    if constexpr (clipped) scaled = min(max(scaled, set1(-127.0f)), set1(127.0f));
    const i32x16 rounded = to_i32(scaled);
    store_i8(codes + k, rounded);
    sums = sums + rounded;
  }
  return sum_i32(sums);
}

// One row: its codes, scales and sums.
inline void quantize_row(const float* x, ActivationBlock& out, int64_t row) {
  int8_t* codes = out.codes + row * out.inputs_padded;
  float* scales = out.scales + row * out.groups;
  int32_t* sums = out.sums + row * out.sum_groups;
  for (int64_t k = 0; k < out.inputs; k += out.group) {
    const int64_t end = smaller(k + out.group, out.inputs);
    const int32_t largest = largest_bits(x + k, end - k);
    const bool fixed = out.fixed_scale > 0.0f;
    const Rounding rounding = fixed ? rounding_by(out.fixed_scale, largest) : rounding_of(largest);
    *scales++ = rounding.scale;
    for (int64_t at = k; at < end; at += out.sum_group) {
      const int64_t count = smaller(out.sum_group, end - at);
      *sums++ = fixed ? round_codes<true>(x + at, count, rounding, codes + at)
                      : round_codes<false>(x + at, count, rounding, codes + at);
    }
  }
  for (int64_t k = (out.inputs + kLanes - 1) / kLanes * kLanes; k < out.inputs_padded; k += kLanes)
    store_i8(codes + k, zero_i32());
}

inline void quantize_rows(const float* x, int64_t stride, ActivationBlock& out, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) quantize_row(x + row * stride, out, row);
}

}  // namespace slipstream::SLIPSTREAM_ISA
