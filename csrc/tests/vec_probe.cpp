#include "tests/vec_probe.h"

#include "kernels/math.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

f32x16 bf16(f32x16 x) {
  uint16_t halves[kLanes];
  store_bf16(halves, x);
  return load_bf16(halves);
}

f32x16 function_of(int function, f32x16 x) {
  switch (function) {
    case 0:
      return exp(x);
    case 1:
      return tanh(x);
    case 2:
      return erf(x);
    case 3:
      return silu(x);
    case 4:
      return gelu(x);
    case 5:
      return gelu_tanh(x);
    case 6:
      return relu(x);
    case 7:
      return sqrt(x);
    case 8:
      return abs(x);
    case 9:
      return round_even(x);
    case 10:
      return as_f32(to_i32(x));
    case 11:
      return bf16(x);
    case 12:
      return to_f32(as_i32(x));
    case 14:
      return exp2_down(x);
    default:
      return as_f32((shift_left<3>(as_i32(x)) | set1_i32(5)) - shift_right<7>(as_i32(x)));
  }
}

void unary(int function, const float* in, float* out) {
  store(out, function_of(function, load(in)));
}

void binary(const float* first, const float* second, float* out) {
  const f32x16 a = load(first), b = load(second);
  store(out, a + b);
  store(out + 16, a / b);
  store(out + 32, fma(a, b, a));
  store(out + 48, min(a, b));
  store(out + 64, max(a, b));
  store(out + 80, select(less(a, b), a, b));
}

float as_float(int32_t x) {
  float out;
  __builtin_memcpy(&out, &x, 4);
  return out;
}

void reduce(const float* in, float* out) {
  out[0] = sum(load(in));
  out[1] = max_of(load(in));
  out[2] = as_float(max_of_i32(as_i32(load(in))));
  out[3] = as_float(sum_i32(as_i32(load(in))));
}

void widen_f16(const uint16_t* in, float* out) { store(out, load_f16(in)); }

void partial(const float* in, float* out, int n) { store(out, load(in, n), n); }

}  // namespace

extern const test::VecProbe vec_probe;
const test::VecProbe vec_probe = {unary, binary, reduce, widen_f16, partial};

}  // namespace slipstream::SLIPSTREAM_ISA
