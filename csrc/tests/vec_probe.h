// The vector interface and kernels/math.h seen through a function table, one per instruction set,
// so that a test can compare them.
#pragma once

#include <cstdint>

namespace slipstream::test {

constexpr int kUnaryCount = 15;
inline const char* const kUnaryNames[kUnaryCount] = {
    "exp", "tanh",       "erf",    "silu", "gelu",   "gelu_tanh", "relu",     "sqrt",
    "abs", "round_even", "to_i32", "bf16", "to_f32", "shifts",    "exp2_down"};

struct VecProbe {
  // out[16] = function(in[16]), by its place in kUnaryNames.
  void (*unary)(int function, const float* in, float* out);
  // out[6][16]: a + b, a / b, fma(a, b, a), min, max, select(a < b, a, b).
  void (*binary)(const float* a, const float* b, float* out);
  // out[4]: sum, max_of, max_of_i32 and sum_i32 (as bits) of in[16].
  void (*reduce)(const float* in, float* out);
  // out[16] from binary16 bits; and the first n lanes of in, the rest untouched.
  void (*widen_f16)(const uint16_t* in, float* out);
  void (*partial)(const float* in, float* out, int n);
};

}  // namespace slipstream::test
