#include "kernels/pack_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/pack_masked.h"
#include "kernels/pack_sparse.h"

namespace slipstream {
namespace {

bool has_zero_points(const SourceMatrix& source) {
  return source.offset_format == OffsetFormat::zero_u8 ||
         source.offset_format == OffsetFormat::zero_i8;
}

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

// The 16 codes of an output from input k on, counted from 0; past the inputs they are 0.
struct UnitReader {
  const SourceMatrix& source;
  bool nibbles;
  int lowest;  // the code that is packed as 0
  uint8_t mask;

  explicit UnitReader(const SourceMatrix& matrix) : source(matrix) {
    const int bits = bits_of_code(matrix.code_format);
    const bool plain = matrix.offset_format == OffsetFormat::none;
    nibbles = bits <= 4;
    mask = uint8_t((1 << bits) - 1);
    lowest = plain ? 8 - (1 << (bits - 1)) : 0;
    if (!nibbles) lowest = plain || has_zero_points(matrix) ? -(1 << (bits - 1)) : 0;
  }

  void read(int64_t output, int64_t k, uint8_t* unit) const {
    const int64_t count = std::min<int64_t>(16, source.inputs - k);
    const auto* bytes = static_cast<const uint8_t*>(source.codes);
    for (int64_t i = 0; i < 16; ++i) {
      uint8_t code = 0;
      if (i < count) {
        const int64_t at = output * source.inputs + k + i;
        const uint8_t stored = nibbles ? bytes[at / 2] >> (at % 2 * 4) & 15 : bytes[at];
        code = uint8_t(stored - lowest) & mask;
      }
      unit[i] = code;
    }
  }
};

// Planes of 16 inputs of one output (pack.h): bits [from, from + 2), and bit `from` alone.
void put_two_bits(const uint8_t* unit, int from, int64_t lane, std::byte* memory) {
  for (int i = 0; i < 4; ++i) {
    int byte = 0;
    for (int s = 0; s < 4; ++s) byte |= (unit[4 * s + i] >> from & 3) << (2 * s);
    memory[lane * 4 + i] = std::byte(byte);
  }
}
void put_one_bit(const uint8_t* unit, int from, int64_t lane, std::byte* memory) {
  for (int i = 0; i < 4; ++i) {
    int bits = 0;
    for (int s = 0; s < 4; ++s) bits |= (unit[4 * s + i] >> from & 1) << s;
    memory[lane % 8 * 4 + i] |= std::byte(lane < 8 ? bits : bits << 4);
  }
}
void put_nibbles(const uint8_t* unit, int64_t lane, std::byte* memory) {
  for (int i = 0; i < 4; ++i) {
    memory[lane * 4 + i] = std::byte((unit[i] & 15) | (unit[4 + i] & 15) << 4);
    memory[64 + lane * 4 + i] = std::byte((unit[8 + i] & 15) | (unit[12 + i] & 15) << 4);
  }
}

void pack_planes(const SourceMatrix& source, PanelOutputs outputs, std::byte* memory) {
  const UnitReader reader(source);
  const int bits = bits_of_code(source.code_format);
  const int64_t unit_bytes = 32 * bits;
  uint8_t unit[16];
  for (int64_t k = 0; k < source.inputs; k += 16, memory += unit_bytes)
    for (int64_t lane = 0; lane < outputs.count; ++lane) {
      reader.read(outputs.first + lane, k, unit);
      if (bits < 4)
        put_two_bits(unit, 0, lane, memory);
      else
        put_nibbles(unit, lane, memory);
      if (bits == 3) put_one_bit(unit, 2, lane, memory + 64);
      if (bits == 5) put_one_bit(unit, 4, lane, memory + 128);
      if (bits == 6) put_two_bits(unit, 4, lane, memory + 128);
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

// int8 [G] of each output, and after them f16 [S]; the super-scales negated if `negated`.
void pack_nested(const void* scales, const uint16_t* supers, const SourceMatrix& source,
                 PanelOutputs outputs, bool negated, std::byte* memory) {
  const int64_t groups = source.inputs / source.group;
  pack_lanes<uint8_t>(scales, outputs, groups, memory);
  auto* out = reinterpret_cast<uint16_t*>(memory + groups * kPanelOutputs);
  pack_lanes<uint16_t>(supers, outputs, source.super_count, reinterpret_cast<std::byte*>(out));
  if (!negated) return;
  for (int64_t s = 0; s < source.super_count; ++s)
    for (int64_t lane = 0; lane < outputs.count; ++lane) out[s * kPanelOutputs + lane] ^= 0x8000;
}

float scale_at(const SourceMatrix& source, int64_t index) {
  if (source.scale_format == ScaleFormat::f32)
    return static_cast<const float*>(source.scales)[index];
  return float_from_half(static_cast<const uint16_t*>(source.scales)[index]);
}

// scale · (q - z) becomes scale · q + minimum with minimum = -scale · z, rounded to float32. Codes
// of 5 and 6 bits, and their z, are counted from 0 first.
template <class Element>
void pack_zero_points(const SourceMatrix& source, PanelOutputs outputs, int64_t groups,
                      std::byte* memory) {
  const auto* zeros = static_cast<const Element*>(source.offsets);
  const int bits = bits_of_code(source.code_format);
  const int shift = bits == 5 || bits == 6 ? 1 << (bits - 1) : 0;
  auto* out = reinterpret_cast<float*>(memory);
  for (int64_t lane = 0; lane < outputs.count; ++lane)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t index = (outputs.first + lane) * groups + g;
      out[g * kPanelOutputs + lane] = -scale_at(source, index) * float(zeros[index] + shift);
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
  if (is_masked(packed.format().codes)) return pack_masked(source, packed, panel);
  if (is_sparse(packed.format().codes)) return pack_sparse(source, packed, panel);
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
    case CodeFormat::nf4:
    case CodeFormat::iq4_nl:
    case CodeFormat::mxfp4:
      return pack_nibbles(source, outputs, memory);
    case CodeFormat::int2:
    case CodeFormat::int3:
    case CodeFormat::int5:
    case CodeFormat::int6:
      return pack_planes(source, outputs, memory);
    case CodeFormat::int8_2of4:
    case CodeFormat::int4_2of4:
    case CodeFormat::int8_masked:
    case CodeFormat::int4_masked:
      break;  // never of a source
  }
  throw std::invalid_argument("unknown code format");
}

void pack_scales(const SourceMatrix& source, PackedMatrix& packed, int64_t panel) {
  const PanelOutputs outputs = panel_outputs(source, panel);
  const int64_t groups = packed.groups();
  std::byte* scales = packed.scales(panel);
  switch (source.scale_format) {
    case ScaleFormat::f32:
      pack_lanes<uint32_t>(source.scales, outputs, groups, scales);
      break;
    case ScaleFormat::f16:
      pack_lanes<uint16_t>(source.scales, outputs, groups, scales);
      break;
    case ScaleFormat::e8m0:
      pack_lanes<uint8_t>(source.scales, outputs, groups, scales);
      break;
    case ScaleFormat::nested:
      pack_nested(source.scales, source.supers, source, outputs, false, scales);
  }
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
    case OffsetFormat::minimum_nested:
      return pack_nested(source.offsets, source.minimum_supers, source, outputs, true, minimums);
  }
}

}  // namespace slipstream
