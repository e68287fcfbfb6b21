// Functions of one variable in the vector interface: exp, tanh, erf and the activations built on
// them. Every step is an IEEE operation in a fixed order, so all instruction sets give the same
// bits. Errors below are against the exact value (tests/test_math.cpp measures them).
#pragma once

#include "isa/vec.h"
#include "kernels/linear.h"

namespace slipstream::SLIPSTREAM_ISA {

// 2^n for integers -126 … 127.
SLIPSTREAM_INLINE f32x16 power_of_two(i32x16 n) {
  return as_f32(shift_left<23>(n + set1_i32(127)));
}

// e^x, within 1.1 ulp; 0 below -104, infinity above 88.73, NaN for NaN; subnormal results are kept.
SLIPSTREAM_INLINE f32x16 exp(f32x16 x) {
  // min and max return their second argument for NaN, so NaN passes.
  const f32x16 bounded = max(set1(-104.0f), min(set1(89.0f), x));
  const f32x16 turns = round_even(bounded * set1(1.44269504f));
  f32x16 r = fma(turns, set1(-0.693145752f), bounded);  // ln 2 in two parts
  r = fma(turns, set1(-1.42860677e-6f), r);
  f32x16 p = set1(1.98756912e-4f);  // Cephes' expf on |r| ≤ ln 2 / 2
  p = fma(p, r, set1(1.39819994e-3f));
  p = fma(p, r, set1(8.33345205e-3f));
  p = fma(p, r, set1(4.16657962e-2f));
  p = fma(p, r, set1(1.66666657e-1f));
  p = fma(p, r, set1(5.00000000e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  // 2^n in two factors, so that neither leaves the range of exponents.
  const i32x16 n = to_i32(turns);
  const i32x16 half = shift_right<1>(n);
  return p * power_of_two(half) * power_of_two(n - half);
}

// 2^x for x ≤ 0, within 1 ulp; 2^-126 for all below, NaN for NaN. Half the work of exp: what
// softmax needs, where the largest score has weight 1.
SLIPSTREAM_INLINE f32x16 exp2_down(f32x16 x) {
  const f32x16 bounded = max(set1(-126.0f), x);
  const f32x16 turns = round_even(bounded);
  const f32x16 r = bounded - turns;
  f32x16 p = set1(1.535336188319500e-4f);  // Cephes' exp2f on |r| ≤ 1/2
  p = fma(p, r, set1(1.339887440266574e-3f));
  p = fma(p, r, set1(9.618437357674640e-3f));
  p = fma(p, r, set1(5.550332471162809e-2f));
  p = fma(p, r, set1(2.402264791363012e-1f));
  p = fma(p, r, set1(6.931472028550421e-1f));
  p = fma(p, r, set1(1.0f));
  return as_f32(as_i32(p) + shift_left<23>(to_i32(turns)));  // NaN's turns shift to nothing
}

SLIPSTREAM_INLINE f32x16 with_sign_of(f32x16 size, f32x16 sign) {
  return as_f32(as_i32(size) | (as_i32(sign) & set1_i32(INT32_MIN)));
}

// tanh x for x ≥ 0 or NaN, away from zero: 1 - 2 / (e^2x + 1).
SLIPSTREAM_INLINE f32x16 tanh_far(f32x16 size) {
  const f32x16 power = exp(size + size);
  return set1(1.0f) - set1(2.0f) / (power + set1(1.0f));
}

// tanh x, within 2 ulp; ±1 far out, NaN for NaN.
SLIPSTREAM_INLINE f32x16 tanh(f32x16 x) {
  const f32x16 size = abs(x);
  const f32x16 z = x * x;
  f32x16 p = set1(-5.70498872745e-3f);  // Cephes' tanhf on |x| < 0.625
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  const f32x16 near = fma(p * z, x, x);
  return select(less(size, set1(0.625f)), near, with_sign_of(tanh_far(size), x));
}

// erf |x| for |x| > 0.9277: 1 - e^q(|x|), a polynomial fitted by N. Juffa.
SLIPSTREAM_INLINE f32x16 erf_far(f32x16 size) {
  const f32x16 z = size * size;
  f32x16 p = fma(set1(-1.72853470e-5f), size, set1(3.83197126e-4f));
  const f32x16 u = fma(set1(-3.88396438e-3f), size, set1(2.42546219e-2f));
  p = fma(p, z, u);
  p = fma(p, size, set1(-1.06777877e-1f));
  p = fma(p, size, set1(-6.34846687e-1f));
  p = fma(p, size, set1(-1.28717512e-1f));
  p = fma(p, size, zero_f32() - size);
  return set1(1.0f) - exp(p);
}

// erf x, within 2 ulp; NaN for NaN.
SLIPSTREAM_INLINE f32x16 erf(f32x16 x) {
  const f32x16 size = abs(x);
  const f32x16 z = x * x;
  f32x16 p = set1(-5.96761703e-4f);
  p = fma(p, z, set1(4.99119423e-3f));
  p = fma(p, z, set1(-2.67681349e-2f));
  p = fma(p, z, set1(1.12819925e-1f));
  p = fma(p, z, set1(-3.76125336e-1f));
  p = fma(p, z, set1(1.28379166e-1f));
  const f32x16 near = fma(p, x, x);
  // Past 10 the polynomial would overflow; erf is 1 there to the last bit.
  const f32x16 far = erf_far(min(set1(10.0f), size));
  return select(less(set1(0.927734375f), size), with_sign_of(far, x), near);
}

// x / (1 + e^-x)
SLIPSTREAM_INLINE f32x16 silu(f32x16 x) { return x / (set1(1.0f) + exp(zero_f32() - x)); }

// x · Φ(x), by erf.
SLIPSTREAM_INLINE f32x16 gelu(f32x16 x) {
  const f32x16 half = set1(0.5f) * x;
  return fma(half, erf(x * set1(0.707106781f)), half);
}

// The tanh approximation: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).
SLIPSTREAM_INLINE f32x16 gelu_tanh(f32x16 x) {
  const f32x16 half = set1(0.5f) * x;
  const f32x16 inner = x * fma(set1(0.044715f), x * x, set1(1.0f));
  return fma(half, tanh(set1(0.797884561f) * inner), half);
}

// x where x > 0, else 0; NaN stays.
SLIPSTREAM_INLINE f32x16 relu(f32x16 x) { return select(less(x, zero_f32()), zero_f32(), x); }

SLIPSTREAM_INLINE f32x16 activation(Activation kind, f32x16 x) {
  switch (kind) {
    case Activation::silu:
      return silu(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::gelu_tanh:
      return gelu_tanh(x);
    case Activation::relu:
      break;
  }
  return relu(x);
}

}  // namespace slipstream::SLIPSTREAM_ISA
