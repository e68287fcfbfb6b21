#include "kernels/pack_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace slipstream {
namespace {

// The outputs of one panel: `count` real ones from `first`.
struct PanelOutputs {
  int64_t first, count;
};

PanelOutputs panel_outputs(const SourceMatrix& source, int64_t panel) {
  const int64_t first = panel * kPanelOutputs;
  return {first, std::min(kPanelOutputs, source.outputs - first)};
}

// out[block][lane][within]: `within` consecutive inputs of an output side by side (bf16, int8), or
// out[input][lane] for within == 1 (f32, f16).
template <class Element, int64_t within>
void pack_elements(const SourceMatrix& source, PanelOutputs outputs, std::byte* memory) {
  const auto* rows = static_cast<const Element*>(source.codes) + outputs.first * source.inputs;
  auto* out = reinterpret_cast<Element*>(memory);
  for (int64_t k = 0; k < source.inputs; k += within) {
    const auto size = sizeof(Element) * size_t(std::min(within, source.inputs - k));
    for (int64_t lane = 0; lane < outputs.count; ++lane)
      std::memcpy(out + k * kPanelOutputs + lane * within, rows + lane * source.inputs + k, size);
  }
}

// Eight nibbles n0 … n7, low first, into the order n0 n4 n1 n5 n2 n6 n3 n7.
uint32_t interleave_halves(uint32_t x) {
  x = (x & 0xff0000ffu) | (x & 0x00ff0000u) >> 8 | (x & 0x0000ff00u) << 8;
  return (x & 0xf00ff00fu) | (x & 0x0f000f00u) >> 4 | (x & 0x00f000f0u) << 4;
}

// 64 bytes hold eight inputs: byte [lane][i] is input i in its low nibble, input 4 + i in its high.
void pack_nibbles(const SourceMatrix& source, PanelOutputs outputs, std::byte* memory) {
  const int64_t row_bytes = source.inputs / 2;
  const auto* rows = static_cast<const uint8_t*>(source.codes) + outputs.first * row_bytes;
  for (int64_t at = 0; at < row_bytes; at += 4)
    for (int64_t lane = 0; lane < outputs.count; ++lane) {
      uint32_t eight = 0;
      std::memcpy(&eight, rows + lane * row_bytes + at,
                  size_t(std::min<int64_t>(4, row_bytes - at)));
      eight = interleave_halves(eight);
      std::memcpy(memory + at * 16 + lane * 4, &eight, 4);
    }
}

// scales or minimums: out[group][lane] from in[output][group].
template <class Element>
void pack_lanes(const void* in, PanelOutputs outputs, int64_t groups, std::byte* memory) {
  const auto* values = static_cast<const Element*>(in);
  auto* out = reinterpret_cast<Element*>(memory);
  for (int64_t lane = 0; lane < outputs.count; ++lane)
    for (int64_t g = 0; g < groups; ++g)
      out[g * kPanelOutputs + lane] = values[(outputs.first + lane) * groups + g];
}

float scale_at(const SourceMatrix& source, int64_t index) {
  if (source.scale_format == ScaleFormat::f32)
    return static_cast<const float*>(source.scales)[index];
  return float_from_half(static_cast<const uint16_t*>(source.scales)[index]);
}

// scale · (q - z) becomes scale · q + minimum with minimum = -scale · z, rounded to float32.
template <class Element>
void pack_zero_points(const SourceMatrix& source, PanelOutputs outputs, int64_t groups,
                      std::byte* memory) {
  const auto* zeros = static_cast<const Element*>(source.offsets);
  auto* out = reinterpret_cast<float*>(memory);
  for (int64_t lane = 0; lane < outputs.count; ++lane)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t index = (outputs.first + lane) * groups + g;
      out[g * kPanelOutputs + lane] = -scale_at(source, index) * float(zeros[index]);
    }
}

}  // namespace

float float_from_half(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  float size;
  if (exponent == 31)
    size = fraction ? NAN : INFINITY;
  else if (exponent == 0)
    size = std::ldexp(float(fraction), -24);
  else
    size = std::ldexp(float(fraction + 1024), exponent - 25);
  return half & 0x8000 ? -size : size;
}

void pack_codes(const SourceMatrix& source, PackedMatrix& packed, int64_t panel) {
  const PanelOutputs outputs = panel_outputs(source, panel);
  std::byte* memory = packed.codes(panel);
  switch (source.code_format) {
    case CodeFormat::f32:
      return pack_elements<uint32_t, 1>(source, outputs, memory);
    case CodeFormat::f16:
      return pack_elements<uint16_t, 1>(source, outputs, memory);
    case CodeFormat::bf16:
      return pack_elements<uint16_t, 2>(source, outputs, memory);
    case CodeFormat::int8:
      return pack_elements<uint8_t, 4>(source, outputs, memory);
    case CodeFormat::int4:
      return pack_nibbles(source, outputs, memory);
  }
  throw std::invalid_argument("unknown code format");
}

void pack_scales(const SourceMatrix& source, PackedMatrix& packed, int64_t panel) {
  const PanelOutputs outputs = panel_outputs(source, panel);
  const int64_t groups = packed.groups();
  if (source.scale_format == ScaleFormat::f32)
    pack_lanes<uint32_t>(source.scales, outputs, groups, packed.scales(panel));
  else
    pack_lanes<uint16_t>(source.scales, outputs, groups, packed.scales(panel));
  std::byte* minimums = packed.minimums(panel);
  switch (source.offset_format) {
    case OffsetFormat::none:
      return;
    case OffsetFormat::minimum_f32:
      return pack_lanes<uint32_t>(source.offsets, outputs, groups, minimums);
    case OffsetFormat::minimum_f16:
      return pack_lanes<uint16_t>(source.offsets, outputs, groups, minimums);
    case OffsetFormat::zero_u8:
      return pack_zero_points<uint8_t>(source, outputs, groups, minimums);
    case OffsetFormat::zero_i8:
      return pack_zero_points<int8_t>(source, outputs, groups, minimums);
  }
}

}  // namespace slipstream
