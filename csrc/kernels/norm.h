// Norms of one row: root mean square or centred, whole or in equal pieces (heads).
//
// Called by csrc/step/row_operations.cpp; compiled once per instruction set, with equal bits.
#pragma once

#include "isa/isa.h"

namespace slipstream {

struct NormShape {
  bool layer;  // centred, plus biases; else root mean square
  int pieces;  // the row is normed in so many equal parts, with the same weights
  int width;   // of one piece
  float epsilon;
  const float* weights;  // [width], the weight offset already added
  const float* biases;   // [width] or null
};

struct NormKernels {
  void (*norm)(const NormShape& shape, const float* x, float* out);
  // sum = a + b, then out = norm(sum).
  void (*add_norm)(const NormShape& shape, const float* a, const float* b, float* sum, float* out);
};

const NormKernels& norm_kernels(Isa isa);

}  // namespace slipstream
