// A random matrix with random rows, and the slow, obvious answer: the Numerics of kernels/linear.h
// written as loops over one output at a time. All kernels are compared with this, bit for bit.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/linear.h"
#include "kernels/pack_codes.h"

namespace slipstream::test {

constexpr int64_t kFloatRows = -1, kBfloatRows = -2;  // as Shape::activation_group

struct Shape {
  int64_t rows, outputs, inputs;
  CodeFormat codes;
  int64_t group;  // of the weights; 0 for dense
  ScaleFormat scales;
  OffsetFormat offsets;
  int64_t activation_group;  // of int8 rows, 0: one scale a row; or of the two above
  int64_t supers = 0;        // of a row, where scales are nested
  Sparsity sparsity = Sparsity::none;

  int64_t resolved_activation_group() const {
    return activation_group == 0 ? inputs : std::min(activation_group, inputs);
  }
  std::string name() const {
    return "rows " + std::to_string(rows) + " outputs " + std::to_string(outputs) + " inputs " +
           std::to_string(inputs) + " codes " + std::to_string(int(codes)) + " group " +
           std::to_string(group) + " scales " + std::to_string(int(scales)) + " offsets " +
           std::to_string(int(offsets)) + " activations " + std::to_string(activation_group) +
           " sparsity " + std::to_string(int(sparsity));
  }
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

struct Case {
  Shape shape;
  std::vector<uint8_t> codes;    // canonical, as SourceMatrix wants them
  std::vector<uint8_t> scales;   // likewise
  std::vector<uint8_t> offsets;  // likewise
  std::vector<uint16_t> supers, minimum_supers;
  std::vector<float> bias;  // [outputs]
  std::vector<float> x;     // [rows][inputs]

  int64_t groups() const { return shape.group ? shape.inputs / shape.group : 0; }

  SourceMatrix source() const {
    return {shape.outputs, shape.inputs,          shape.codes,   codes.data(),   shape.group,
            shape.scales,  scales.data(),         shape.offsets, offsets.data(), shape.supers,
            supers.data(), minimum_supers.data(), shape.sparsity};
  }
  int bits() const { return bits_of_code(shape.codes); }

  int code(int64_t o, int64_t k) const {
    if (bits() > 4) {
      const int stored = int8_t(codes[size_t(o * shape.inputs + k)]);
      return stored + (counted_from_zero() ? 1 << (bits() - 1) : 0);
    }
    const int stored = codes[size_t((o * shape.inputs + k) / 2)] >> (k % 2 * 4) & 15;
    if (shape.codes == CodeFormat::nf4) return Nf4::levels[stored];
    if (shape.codes == CodeFormat::iq4_nl) return Iq4::levels[stored];
    if (shape.codes == CodeFormat::mxfp4) return E2m1::levels[stored];
    return stored;
  }
  // Zero points of 5 and 6 bits become minimums of codes from 0 on (pack_codes.cpp).
  bool counted_from_zero() const { return bits() < 8 && shape.offsets == OffsetFormat::zero_i8; }
  static float number(const std::vector<uint8_t>& values, ScaleFormat format, int64_t at) {
    if (format == ScaleFormat::f32) {
      float x;
      std::memcpy(&x, &values[size_t(at * 4)], 4);
      return x;
    }
    uint16_t half;
    std::memcpy(&half, &values[size_t(at * 2)], 2);
    return float_from_half(half);
  }
  float super(const std::vector<uint16_t>& halves, int64_t o, int64_t g) const {
    return float_from_half(halves[size_t(o * shape.supers + g / (groups() / shape.supers))]);
  }
  float scale(int64_t o, int64_t g) const {
    const int64_t at = o * groups() + g;
    if (shape.scales == ScaleFormat::e8m0) return std::ldexp(1.0f, scales[size_t(at)] - 128);
    if (shape.scales == ScaleFormat::nested)
      return float(int8_t(scales[size_t(at)])) * super(supers, o, g);
    return number(scales, shape.scales, at);
  }
  bool has_minimum() const { return shape.offsets != OffsetFormat::none; }
  float minimum(int64_t o, int64_t g) const {
    const int64_t at = o * groups() + g;
    switch (shape.offsets) {
      case OffsetFormat::minimum_f16:
        return number(offsets, ScaleFormat::f16, at);
      case OffsetFormat::minimum_f32:
        return number(offsets, ScaleFormat::f32, at);
      case OffsetFormat::zero_u8:
        return -scale(o, g) * float(offsets[size_t(at)]);
      case OffsetFormat::zero_i8:
        return -scale(o, g) *
               float(int8_t(offsets[size_t(at)]) + (counted_from_zero() ? 1 << (bits() - 1) : 0));
      case OffsetFormat::minimum_nested:
        return -(float(int8_t(offsets[size_t(at)])) * super(minimum_supers, o, g));
      case OffsetFormat::none:
        break;
    }
    return 0.0f;
  }
  // Of canonical codes: those of 4 bits and fewer are counted from 0, with 8 in the middle.
  int zero() const { return bits() <= 4 && !is_codebook(shape.codes) && !has_minimum() ? 8 : 0; }

  // One weight in float32.
  float weight(int64_t o, int64_t k) const {
    const size_t at = size_t(o * shape.inputs + k);
    if (shape.codes == CodeFormat::f32) return number(codes, ScaleFormat::f32, int64_t(at));
    if (shape.codes == CodeFormat::f16) return number(codes, ScaleFormat::f16, int64_t(at));
    if (shape.codes == CodeFormat::bf16) {
      uint16_t half;
      std::memcpy(&half, &codes[at * 2], 2);
      return float_of(uint32_t(half) << 16);
    }
    const int64_t g = k / shape.group;
    if (has_minimum()) return std::fma(scale(o, g), float(code(o, k)), minimum(o, g));
    return scale(o, g) * float(code(o, k) - zero());
  }
};

// The rows rounded as the Numerics say, one value at a time.
struct NaiveRows {
  std::vector<int> codes;     // [rows][inputs]
  std::vector<float> scales;  // [rows][groups]
};

inline NaiveRows naive_quantize(const Case& c) {
  const Shape& s = c.shape;
  const int64_t group = s.resolved_activation_group();
  NaiveRows out;
  for (int64_t r = 0; r < s.rows; ++r)
    for (int64_t begin = 0; begin < s.inputs; begin += group) {
      const int64_t end = std::min(begin + group, s.inputs);
      float maximum = 0.0f;
      bool finite = true;
      for (int64_t k = begin; k < end; ++k) {
        const float size = std::fabs(c.x[size_t(r * s.inputs + k)]);
        finite = finite && std::isfinite(size);
        maximum = std::max(maximum, size);
      }
      float inverse = maximum > 0 ? 127.0f / maximum : 0.0f;
      if (!std::isfinite(inverse)) inverse = 0.0f;
      out.scales.push_back(finite ? maximum / 127.0f : NAN);
      for (int64_t k = begin; k < end; ++k)
        out.codes.push_back(finite ? int(std::nearbyint(c.x[size_t(r * s.inputs + k)] * inverse))
                                   : 0);
    }
  return out;
}

inline float naive_integer(const Case& c, const NaiveRows& rows, int64_t r, int64_t o) {
  const Shape& s = c.shape;
  const int64_t activation_group = s.resolved_activation_group();
  const int64_t activation_groups = (s.inputs - 1) / activation_group + 1;
  const int64_t merge = std::min(s.group, activation_group);
  float acc = 0.0f;
  for (int64_t begin = 0; begin < s.inputs; begin += merge) {
    int64_t dot = 0, sum = 0;
    for (int64_t k = begin; k < std::min(begin + merge, s.inputs); ++k) {
      const int a = rows.codes[size_t(r * s.inputs + k)];
      dot += int64_t(a) * (c.code(o, k) - c.zero());
      sum += a;
    }
    const int64_t g = begin / s.group;
    const float sa = rows.scales[size_t(r * activation_groups + begin / activation_group)];
    acc = std::fma(float(int32_t(dot)), c.scale(o, g) * sa, acc);
    if (c.has_minimum()) acc = std::fma(c.minimum(o, g), sa * float(int32_t(sum)), acc);
  }
  return acc;
}

inline float naive_float(const Case& c, int64_t r, int64_t o) {
  float acc = 0.0f;
  for (int64_t k = 0; k < c.shape.inputs; ++k)
    acc = std::fma(c.weight(o, k), c.x[size_t(r * c.shape.inputs + k)], acc);
  return acc;
}

// To nearest even; of a NaN, one.
inline float naive_bfloat(float x) {
  if (std::isnan(x)) return x;
  const uint32_t bits = bits_of(x);
  return float_of((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

inline float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

inline float naive_bfloats(const Case& c, int64_t r, int64_t o) {
  const int64_t inputs = c.shape.inputs, padded = (inputs + 63) / 64 * 64;
  float acc = 0.0f;
  for (int64_t begin = 0; begin < padded; begin += 32) {
    float half[2] = {0.0f, 0.0f};  // of even and odd inputs
    for (int64_t k = begin; k < begin + 32; ++k) {
      const float x = k < inputs ? naive_bfloat(c.x[size_t(r * inputs + k)]) : 0.0f;
      const float w = k < inputs ? c.weight(o, k) : 0.0f;
      half[k % 2] = flushed(std::fma(flushed(w), flushed(x), half[k % 2]));
    }
    acc = flushed(acc + flushed(half[0] + half[1]));
  }
  return acc;
}

// y [rows][outputs], bias added when `bias`.
inline std::vector<float> naive(const Case& c, bool bias) {
  const Shape& s = c.shape;
  const bool integer = s.activation_group >= 0;
  const NaiveRows rows = integer ? naive_quantize(c) : NaiveRows{};
  std::vector<float> y;
  for (int64_t r = 0; r < s.rows; ++r)
    for (int64_t o = 0; o < s.outputs; ++o) {
      const float acc = integer                             ? naive_integer(c, rows, r, o)
                        : s.activation_group == kBfloatRows ? naive_bfloats(c, r, o)
                                                            : naive_float(c, r, o);
      y.push_back(bias ? acc + c.bias[size_t(o)] : acc);
    }
  return y;
}

}  // namespace slipstream::test
