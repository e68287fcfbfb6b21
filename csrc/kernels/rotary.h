// Rotary embedding of one row, with sines and cosines that the step has computed.
#pragma once

#include "isa/isa.h"

namespace slipstream {

struct RotaryShape {
  int heads;
  int head_dim;
  int pairs;  // element i of a head turns with element i + pairs; those from 2·pairs on stay
};

struct RotaryKernels {
  // cosines and sines are [pairs]; x and out [heads · head_dim], not overlapping.
  void (*rotate)(const RotaryShape& shape, const float* cosines, const float* sines, const float* x,
                 float* out);
};

const RotaryKernels& rotary_kernels(Isa isa);

}  // namespace slipstream
