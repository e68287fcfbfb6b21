// Random cases for the linear tests: shapes with odd edges and values at the limits of their
// formats, and the kernels run over a case.
#pragma once

#include "tests/linear_case.h"

namespace slipstream::test {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  float normal(float size) { return std::normal_distribution<float>(0.0f, size)(engine_); }
  template <class Element>
  Element pick(std::initializer_list<Element> list) {
    return *(list.begin() + integer(0, int64_t(list.size()) - 1));
  }
  uint8_t byte() { return uint8_t(integer(0, 255)); }

  // A finite binary16 or bfloat16 or float32 number of moderate size, as bytes.
  void number(std::vector<uint8_t>& out, ScaleFormat format, bool wild) {
    if (format == ScaleFormat::f16) {
      const int64_t exponent = wild ? integer(0, 30) : integer(6, 14);
      const auto half = uint16_t(integer(0, 1) << 15 | exponent << 10 | integer(0, 1023));
      append(out, &half, 2);
    } else {
      const float x = wild ? normal(1.0f) * pick({1e-30f, 1e-3f, 1.0f, 1e12f}) : normal(0.02f);
      append(out, &x, 4);
    }
  }
  static void append(std::vector<uint8_t>& out, const void* value, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(value);
    out.insert(out.end(), bytes, bytes + size);
  }

 private:
  std::mt19937 engine_;
};

inline void fill_codes(Case& c, Random& random) {
  const int64_t count = c.shape.outputs * c.shape.inputs;
  const bool extreme = random.integer(0, 3) == 0;  // only -128 and 127 (0 and 15)
  switch (c.shape.codes) {
    case CodeFormat::f32:
    case CodeFormat::f16:
      for (int64_t i = 0; i < count; ++i)
        random.number(
            c.codes, c.shape.codes == CodeFormat::f32 ? ScaleFormat::f32 : ScaleFormat::f16, false);
      return;
    case CodeFormat::bf16:
      for (int64_t i = 0; i < count; ++i) {
        const auto half = uint16_t(bits_of(random.normal(0.05f)) >> 16);
        Random::append(c.codes, &half, 2);
      }
      return;
    case CodeFormat::int8:
      for (int64_t i = 0; i < count; ++i)
        c.codes.push_back(extreme ? random.pick<uint8_t>({0x80, 0x7f}) : random.byte());
      return;
    case CodeFormat::int4:
    case CodeFormat::nf4:
    case CodeFormat::iq4_nl:
    case CodeFormat::mxfp4:
      for (int64_t i = 0; i < count / 2; ++i)
        c.codes.push_back(extreme ? random.pick<uint8_t>({0x00, 0xff, 0xf0}) : random.byte());
      return;
    default:
      break;
  }
  // 2, 3, 5 and 6 bits: as the tensors of formats/ hold them.
  const int bits = c.bits(), codes = 1 << bits;
  const bool minimum = c.has_minimum() && !c.counted_from_zero();
  const auto draw = [&] {
    const auto from_zero =
        int(extreme ? random.pick({0, codes - 1}) : random.integer(0, codes - 1));
    if (bits > 4) return minimum ? from_zero : from_zero - codes / 2;
    return c.has_minimum() ? from_zero : from_zero + 8 - codes / 2;
  };
  for (int64_t i = 0; i < (bits > 4 ? count : count / 2); ++i) {
    const int first = draw();
    c.codes.push_back(uint8_t(bits > 4 ? first : first | draw() << 4));
  }
}

// Weight `at` of a symmetric matrix of 4 or 8 bits becomes zero.
inline void clear(Case& c, int64_t at) {
  if (c.shape.codes == CodeFormat::int8)
    c.codes[size_t(at)] = 0;
  else
    c.codes[size_t(at / 2)] =
        uint8_t((c.codes[size_t(at / 2)] & (at % 2 ? 15 : 240)) | 8 << at % 2 * 4);
}

// Two of each four weights are zero, now and then more; one output in five is wholly zero.
inline void thin_out(Case& c, Random& random) {
  const Shape& s = c.shape;
  for (int64_t o = 0; o < s.outputs; ++o) {
    const bool empty = random.integer(0, 4) == 0;
    for (int64_t k = 0; k < s.inputs; k += 4) {
      const int64_t kept = empty ? 0 : random.pick({1, 2, 2, 2});
      const int64_t first = random.integer(0, 3), second = random.integer(0, 3);
      for (int64_t i = 0; i < std::min<int64_t>(4, s.inputs - k); ++i)
        if (kept == 0 || (i != first && (kept == 1 || i != second))) clear(c, o * s.inputs + k + i);
    }
  }
}

// Zeros anywhere, from none to all: panels differ in how many, and some outputs are all zero.
inline void prune(Case& c, Random& random) {
  const Shape& s = c.shape;
  int64_t zeros = 0;  // in a hundred
  for (int64_t o = 0; o < s.outputs; ++o) {
    if (o % kPanelOutputs == 0) zeros = random.pick<int64_t>({0, 20, 50, 50, 80, 95, 100});
    const bool empty = random.integer(0, 6) == 0;
    for (int64_t k = 0; k < s.inputs; ++k)
      if (empty || random.integer(0, 99) < zeros) clear(c, o * s.inputs + k);
  }
}

inline void fill_scales(Case& c, Random& random) {
  const Shape& shape = c.shape;
  const bool wild = random.integer(0, 3) == 0;
  const auto nested = [&] { return uint8_t(random.integer(-128, 127)); };
  for (int64_t i = 0; i < shape.outputs * c.groups(); ++i) {
    if (shape.scales == ScaleFormat::e8m0)
      c.scales.push_back(uint8_t(wild ? random.integer(0, 254) : random.integer(115, 130)));
    else if (shape.scales == ScaleFormat::nested)
      c.scales.push_back(nested());
    else
      random.number(c.scales, shape.scales, wild);
    if (shape.offsets == OffsetFormat::minimum_f16)
      random.number(c.offsets, ScaleFormat::f16, wild);
    else if (shape.offsets == OffsetFormat::minimum_f32)
      random.number(c.offsets, ScaleFormat::f32, wild);
    else if (shape.offsets == OffsetFormat::minimum_nested)
      c.offsets.push_back(nested());
    else if (shape.offsets == OffsetFormat::zero_u8)
      c.offsets.push_back(random.byte() & ((1 << c.bits()) - 1));
    else if (shape.offsets == OffsetFormat::zero_i8)
      c.offsets.push_back(uint8_t(int8_t(random.byte()) >> (8 - c.bits())));
  }
  for (int64_t i = 0; i < 2 * shape.outputs * shape.supers; ++i) {
    std::vector<uint8_t> half;
    random.number(half, ScaleFormat::f16, wild);
    const auto bits = uint16_t(half[0] | half[1] << 8);
    (i % 2 == 0 ? c.supers : c.minimum_supers).push_back(bits);
  }
}

inline Case make_case(const Shape& shape, uint32_t seed) {
  Random random(seed);
  Case c;
  c.shape = shape;
  fill_codes(c, random);
  if (shape.sparsity == Sparsity::two_of_four) thin_out(c, random);
  if (shape.sparsity == Sparsity::masked) prune(c, random);
  fill_scales(c, random);
  for (int64_t o = 0; o < shape.outputs; ++o) c.bias.push_back(random.normal(1.0f));
  const bool saturated = random.integer(0, 3) == 0;  // every activation becomes ±127
  for (int64_t i = 0; i < shape.rows * shape.inputs; ++i)
    c.x.push_back(saturated ? random.pick({-3.0f, 3.0f})
                            : random.normal(1.0f) * random.pick({0.0f, 1.0f, 1.0f, 1e-4f, 50.0f}));
  return c;
}

// An ActivationBlock with its memory.
struct Block {
  AlignedBuffer memory;
  ActivationBlock block;
  Block(int64_t rows, int64_t inputs, int64_t group, int64_t sum_group)
      : memory(ActivationBlock::size_bytes(rows, inputs, group, sum_group)),
        block(ActivationBlock::place(memory.data(), rows, inputs, group, sum_group)) {
    std::memset(memory.data(), 0x55, memory.size());  // whatever was there before
  }
};

// The rows as bfloat16, [rows][inputs_padded].
inline std::vector<uint16_t> bfloats(const LinearKernels& kernels, const Case& c, int64_t padded) {
  std::vector<uint16_t> out(size_t(c.shape.rows * padded), 0x5555);  // whatever was there before
  kernels.round_rows(c.x.data(), c.shape.inputs, c.shape.inputs, padded, out.data(),
                     {0, c.shape.rows});
  return out;
}

inline Block quantized(const LinearKernels& kernels, const Case& c, int64_t sum_group) {
  const Shape& s = c.shape;
  Block out(s.rows, s.inputs, s.activation_group, sum_group);
  kernels.quantize_rows(c.x.data(), s.inputs, out.block, {0, s.rows});
  return out;
}

// y [rows][outputs] computed in the parts given; what no part covers stays NaN.
inline std::vector<float> run(const LinearKernels& kernels, const Case& c,
                              const PackedMatrix& matrix, const std::vector<Part>& parts, bool bias,
                              const LinearChoice& choice = {}) {
  const Shape& s = c.shape;
  std::vector<float> y(size_t(s.rows * s.outputs), NAN);
  const Product product{&matrix, bias ? c.bias.data() : nullptr, y.data(), s.outputs, choice};
  LinearInput input{nullptr, c.x.data(), s.inputs};
  Block block(s.rows, s.inputs, 0, 0);
  std::vector<uint16_t> halves;
  if (s.activation_group == kBfloatRows) {
    halves = bfloats(kernels, c, matrix.inputs_padded());
    input = {nullptr, nullptr, matrix.inputs_padded(), halves.data()};
  }
  if (s.activation_group >= 0) {
    block = quantized(kernels, c, merge_group(matrix, s.activation_group));
    input = {&block.block, nullptr, 0};
  }
  Scratch scratch;
  for (const Part& part : parts) kernels.multiply(input, product, part, scratch);
  return y;
}

inline Part whole(const Case& c, const PackedMatrix& matrix) {
  return {{0, c.shape.rows}, {0, matrix.panels()}};
}

// -1 when the bits agree (any NaN equals any NaN), else the first place where they do not.
inline int64_t first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool both_nan = std::isnan(a[i]) && std::isnan(b[i]);
    if (!both_nan && bits_of(a[i]) != bits_of(b[i])) return int64_t(i);
  }
  return -1;
}

}  // namespace slipstream::test
