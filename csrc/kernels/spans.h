// Of several spans that a group of weights could be rounded to: the squared error of each.
//
// The search of src/slipstream/compress/passes/grid.py asks; its `squared_errors` is the reference.
// Compiled once per instruction set, with equal bits.
#pragma once

#include <cstdint>

#include "isa/isa.h"

namespace slipstream {

struct SpanSearch {
  const float* values;      // [groups, width], width a multiple of 16
  const float* importance;  // [kinds, width], group g counts by row g mod kinds; or null
  const float* scales;      // [candidates, groups]
  const float* zeros;       // [candidates, groups]: the code of zero, or the minimum
  float low, high;          // the least and the greatest code
  bool by_minimum;          // value = code · scale + zero; else (code - zero) · scale
  std::int64_t candidates, groups, width, kinds;
};

struct SpanKernels {
  // The least and the greatest value of each group of x [groups, width], width a multiple of 16.
  void (*ends)(const float* x, std::int64_t groups, std::int64_t width, float* least, float* most);
  // errors [candidates, groups].
  void (*squared_errors)(const SpanSearch& search, float* errors);
};

const SpanKernels& span_kernels(Isa isa);

}  // namespace slipstream
