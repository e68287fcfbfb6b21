// Kernels that compute one row at a time: norms, rotary embedding, element-wise operations.
//
// Called by the operations of csrc/step; compiled once per instruction set, with equal bits.
#pragma once

#include "isa/isa.h"

namespace slipstream {

enum class Activation { silu, gelu, gelu_tanh, relu };

struct NormShape {
  bool layer;            // centred, plus bias; else root mean square
  int pieces;            // the row is normed in so many equal parts, with the same weights
  int width;             // of one piece
  float epsilon;
  const float* weights;  // [width], the weight offset already added
  const float* biases;   // [width] or null
};

struct RotaryShape {
  int heads;
  int head_dim;
  int pairs;  // element i of a head turns with element i + pairs
};

struct RowKernels {
  void (*norm)(const NormShape& shape, const float* x, float* out);
  // sum = a + b, then out = norm(sum).
  void (*add_norm)(const NormShape& shape, const float* a, const float* b, float* sum, float* out);
  // Sines and cosines [pairs]; x and out may be the same.
  void (*rotate)(const RotaryShape& shape, const float* cosines, const float* sines, const float* x,
                 float* out);
  void (*activate)(Activation kind, const float* x, float* out, int width);
  void (*gate)(Activation kind, const float* gate, const float* up, float* out, int width);
  void (*add)(const float* a, const float* b, float* out, int width);
  void (*scale)(float factor, const float* x, float* out, int width);
  void (*soft_cap)(float cap, const float* x, float* out, int width);
};

const RowKernels& row_kernels(Isa isa);

}  // namespace slipstream
