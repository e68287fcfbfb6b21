// Element-wise operations on one row: sums, scales, soft caps. Activations and gates stand with the
// linear kernels (linear.h), which fuse them.
//
// x and out may be the same. Compiled once per instruction set, with equal bits.
#pragma once

#include "isa/isa.h"

namespace slipstream {

struct ElementwiseKernels {
  void (*add)(const float* a, const float* b, float* out, int width);
  void (*scale)(float factor, const float* x, float* out, int width);
  // cap · tanh(x / cap)
  void (*soft_cap)(float cap, const float* x, float* out, int width);
};

const ElementwiseKernels& elementwise_kernels(Isa isa);

}  // namespace slipstream
