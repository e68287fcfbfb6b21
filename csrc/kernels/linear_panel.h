// What the integer and the float product share: where a panel's parts are, and where its outputs
// go.
#pragma once

#include <cstddef>

#include "isa/vec.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace slipstream::SLIPSTREAM_ISA {

// The 16 scales, or minimums, of one group.
SLIPSTREAM_INLINE f32x16 load_scales(const std::byte* scales, ScaleFormat format, int64_t group) {
  if (format == ScaleFormat::f16)
    return load_f16(reinterpret_cast<const uint16_t*>(scales) + group * kLanes);
  return load(reinterpret_cast<const float*>(scales) + group * kLanes);
}

// One panel as a kernel reads it: in the matrix, or unpacked into scratch.
struct Panel {
  const std::byte* codes;
  const std::byte* scales;
  const std::byte* minimums;  // null: none
  ScaleFormat scale_format;
  ScaleFormat minimum_format;
};

SLIPSTREAM_INLINE Panel panel_of(const PackedMatrix& matrix, int64_t panel) {
  const MatrixFormat& format = matrix.format();
  return {matrix.codes(panel), matrix.scales(panel),
          format.has_minimums ? matrix.minimums(panel) : nullptr, format.scales, format.minimums};
}

// Where the outputs of a panel go: row r's `lanes` floats to y + r · stride. `bias` may be null.
struct PanelOutput {
  float* y;
  int64_t stride;
  const float* bias;
  int lanes;
};

SLIPSTREAM_INLINE PanelOutput panel_output(float* y, int64_t stride, const float* bias,
                                           const PackedMatrix& matrix, int64_t panel) {
  const int64_t first = panel * kPanelOutputs;
  const int lanes = int(smaller(kPanelOutputs, matrix.outputs() - first));
  return {y + first, stride, bias ? bias + first : nullptr, lanes};
}

SLIPSTREAM_INLINE void store_output(const PanelOutput& out, int64_t row, f32x16 value) {
  if (out.bias) value = value + (out.lanes == kLanes ? load(out.bias) : load(out.bias, out.lanes));
  float* y = out.y + row * out.stride;
  if (out.lanes == kLanes)
    store(y, value);
  else
    store(y, value, out.lanes);
}

// Asks for memory ahead of use: `bytes` from p on.
SLIPSTREAM_INLINE void prefetch(const std::byte* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += int64_t(kCacheLine)) __builtin_prefetch(p + at);
}

// Hands out pieces of one scratch allocation, each on a cache line.
class Pieces {
 public:
  explicit Pieces(std::byte* memory) : memory_(memory) {}
  template <class Element>
  Element* take(int64_t count) {
    auto* piece = reinterpret_cast<Element*>(memory_);
    memory_ += bytes<Element>(count);
    return piece;
  }
  template <class Element>
  static int64_t bytes(int64_t count) {
    constexpr int64_t line = int64_t(kCacheLine);
    return (count * int64_t(sizeof(Element)) + line - 1) / line * line;
  }

 private:
  std::byte* memory_;
};

}  // namespace slipstream::SLIPSTREAM_ISA
