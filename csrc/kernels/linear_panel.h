// What the integer and the float product share: where a panel's parts are, and where its outputs
// go.
#pragma once

#include <cstddef>

#include "isa/vec.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace slipstream::SLIPSTREAM_ISA {

// The scales, or minimums, of a panel.
struct Scales {
  const std::byte* data;  // null: none
  ScaleFormat format;
  const std::byte* supers;  // of nested ones: f16 [supers][16]
  int shift;                // log2 of the groups in a super-group
};

// 2^(e - 128) for 16 bytes e, exact for 0 and 1 too, which are subnormal.
SLIPSTREAM_INLINE f32x16 load_powers(const std::byte* exponents) {
  const i32x16 e = load_i8(reinterpret_cast<const int8_t*>(exponents)) & set1_i32(255);
  const f32x16 normal = as_f32(shift_left<23>(e - set1_i32(1)));
  const f32x16 least = as_f32(set1_i32(0x00200000)), next = as_f32(set1_i32(0x00400000));
  const f32x16 subnormal = select(less_i32(e, set1_i32(1)), least, next);
  return select(less_i32(e, set1_i32(2)), subnormal, normal);
}

// Those of one group for the 16 outputs.
SLIPSTREAM_INLINE f32x16 load_scales(const Scales& scales, int64_t group) {
  const int64_t first = group * kLanes;
  switch (scales.format) {
    case ScaleFormat::f16:
      return load_f16(reinterpret_cast<const uint16_t*>(scales.data) + first);
    case ScaleFormat::f32:
      return load(reinterpret_cast<const float*>(scales.data) + first);
    case ScaleFormat::e8m0:
      return load_powers(scales.data + first);
    case ScaleFormat::nested:
      break;
  }
  const int64_t super = (group >> scales.shift) * kLanes;
  return to_f32(load_i8(reinterpret_cast<const int8_t*>(scales.data) + first)) *
         load_f16(reinterpret_cast<const uint16_t*>(scales.supers) + super);
}

// One panel as a kernel reads it: in the matrix, or unpacked into scratch.
struct Panel {
  const std::byte* codes;
  Scales scales;
  Scales minimums;
};

SLIPSTREAM_INLINE Panel panel_of(const PackedMatrix& matrix, int64_t panel) {
  const MatrixFormat& format = matrix.format();
  const int shift = matrix.super_shift();
  const std::byte* scales = matrix.scales(panel);
  const std::byte* minimums = format.has_minimums ? matrix.minimums(panel) : nullptr;
  const auto after = matrix.supers_after();
  return {matrix.codes(panel),
          {scales, format.scales, scales + after, shift},
          {minimums, format.minimums, minimums ? minimums + after : nullptr, shift}};
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
