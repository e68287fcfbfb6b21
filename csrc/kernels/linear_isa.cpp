// The linear kernels' function table, compiled once per instruction set. What is called from here
// lives in this set's namespace or is always inlined: no std:: containers, so that no function
// compiled for a faster set can be linked into a slower one.
#include "kernels/linear_bfloat.h"
#include "kernels/linear_float_product.h"
#include "kernels/linear_integer_product.h"
#include "kernels/math.h"
#include "kernels/quantize.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

// Rows that run together, so that they stay in the second cache while panels pass: as many as
// 192 KiB of their inputs, at least 48.
int64_t chunk_rows(int64_t row_bytes, int64_t rows) {
  const int64_t fitting = (int64_t(192) << 10) / row_bytes / 24 * 24;
  return smaller(rows, fitting < 48 ? 48 : fitting);
}

struct Chunks {
  int64_t rows;  // of one chunk
  explicit Chunks(const LinearInput& x, const PackedMatrix& matrix, Range range)
      : rows(chunk_rows(matrix.inputs_padded() * element_bytes(x), range.end - range.begin)) {}
  static int64_t element_bytes(const LinearInput& x) { return x.quantized ? 1 : x.bfloats ? 2 : 4; }
};

void multiply_integer(const LinearInput& x, const Product& product, Part part, Scratch& scratch) {
  const PackedMatrix& matrix = *product.matrix;
  const Chunks chunks(x, matrix, part.rows);
  std::byte* memory =
      scratch.reserve(std::size_t(IntegerProduct::bytes(*x.quantized, matrix, chunks.rows)));
  for (int64_t row = part.rows.begin; row < part.rows.end; row += chunks.rows) {
    const Range rows{row, smaller(row + chunks.rows, part.rows.end)};
    const IntegerProduct linear(*x.quantized, matrix, rows, product.choice, memory);
    float* y = product.y + row * product.y_stride;
    for (int64_t panel = part.panels.begin; panel < part.panels.end; ++panel)
      linear.panel(panel, panel_output(y, product.y_stride, product.bias, matrix, panel));
  }
}

// The panels of a chunk, whose first row writes to y.
template <class Linear>
void all_panels(const Linear& linear, const Product& product, float* y, Range panels) {
  int64_t at_once = 1;
  for (int64_t panel = panels.begin; panel < panels.end; panel += at_once) {
    at_once = linear.panels_at_once(panels.end - panel);
    PanelOutput outs[2];
    for (int64_t p = 0; p < at_once; ++p)
      outs[p] = panel_output(y, product.y_stride, product.bias, *product.matrix, panel + p);
    linear.panels(panel, at_once, outs);
  }
}

void multiply_float(const LinearInput& x, const Product& product, Part part, Scratch& scratch) {
  const PackedMatrix& matrix = *product.matrix;
  const Chunks chunks(x, matrix, part.rows);
  std::byte* memory = scratch.reserve(std::size_t(FloatProduct::bytes(chunks.rows)));
  for (int64_t row = part.rows.begin; row < part.rows.end; row += chunks.rows) {
    const int64_t count = smaller(chunks.rows, part.rows.end - row);
    const FloatProduct linear({x.values + row * x.stride, x.stride}, matrix, count, memory);
    all_panels(linear, product, product.y + row * product.y_stride, part.panels);
  }
}

void multiply_bfloat(const LinearInput& x, const Product& product, Part part) {
  const PackedMatrix& matrix = *product.matrix;
  const Chunks chunks(x, matrix, part.rows);
  for (int64_t row = part.rows.begin; row < part.rows.end; row += chunks.rows) {
    const int64_t count = smaller(chunks.rows, part.rows.end - row);
    const BfloatProduct linear({x.bfloats + row * x.stride, x.stride}, matrix, count);
    all_panels(linear, product, product.y + row * product.y_stride, part.panels);
  }
}

void multiply(const LinearInput& x, const Product& product, Part part, Scratch& scratch) {
  if (x.quantized)
    multiply_integer(x, product, part, scratch);
  else if (x.bfloats)
    multiply_bfloat(x, product, part);
  else
    multiply_float(x, product, part, scratch);
}

// out = activation(gate) · up for the rows of one panel; gate and up are [rows][16].
void combine(Activation kind, const float* gate, const float* up, int64_t rows,
             const PanelOutput& out) {
  for (int64_t row = 0; row < rows; ++row) {
    const f32x16 opened = activation(kind, load(gate + row * kLanes));
    store_output(out, row, opened * load(up + row * kLanes));
  }
}

// A panel's rows in scratch; its bias is added there.
PanelOutput scratch_output(float* memory, const float* bias, const PackedMatrix& matrix,
                           int64_t panel) {
  PanelOutput out = panel_output(memory, kLanes, bias, matrix, panel);
  out.y = memory;
  return out;
}

template <class Linear>
void gate_and_up(const Linear& gate, const Linear& up, int64_t panel, const PanelOutput* outs) {
  gate.panel(panel, outs[0]);
  up.panel(panel, outs[1]);
}

// The two products of a chunk, panel by panel, into scratch and together into y.
template <class Linear>
void gated_panels(const Linear& gate, const Linear& up, const GatedProduct& product, Range rows,
                  Range panels, float* memory) {
  const int64_t count = rows.end - rows.begin;
  float* gate_rows = memory;
  float* up_rows = memory + count * kLanes;
  float* y = product.y + rows.begin * product.y_stride;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const PackedMatrix& matrix = *product.gate;
    const PanelOutput outs[2] = {scratch_output(gate_rows, product.gate_bias, matrix, panel),
                                 scratch_output(up_rows, product.up_bias, matrix, panel)};
    gate_and_up(gate, up, panel, outs);
    combine(product.kind, gate_rows, up_rows, count,
            panel_output(y, product.y_stride, nullptr, matrix, panel));
  }
}

void gated_integer(const LinearInput& x, const GatedProduct& product, Part part, Scratch& scratch) {
  const Chunks chunks(x, *product.gate, part.rows);
  const ActivationBlock& block = *x.quantized;
  const int64_t gate_bytes = IntegerProduct::bytes(block, *product.gate, chunks.rows);
  const int64_t up_bytes = IntegerProduct::bytes(block, *product.up, chunks.rows);
  const int64_t out_bytes = Pieces::bytes<float>(2 * chunks.rows * kLanes);
  Pieces pieces(scratch.reserve(std::size_t(gate_bytes + up_bytes + out_bytes)));
  auto* gate_memory = pieces.take<std::byte>(gate_bytes);
  auto* up_memory = pieces.take<std::byte>(up_bytes);
  auto* out_memory = pieces.take<float>(2 * chunks.rows * kLanes);
  for (int64_t row = part.rows.begin; row < part.rows.end; row += chunks.rows) {
    const Range rows{row, smaller(row + chunks.rows, part.rows.end)};
    const IntegerProduct gate(block, *product.gate, rows, product.choice, gate_memory);
    const IntegerProduct up(block, *product.up, rows, product.choice, up_memory);
    gated_panels(gate, up, product, rows, part.panels, out_memory);
  }
}

void gated_float(const LinearInput& x, const GatedProduct& product, Part part, Scratch& scratch) {
  const Chunks chunks(x, *product.gate, part.rows);
  const int64_t linear_bytes = FloatProduct::bytes(chunks.rows);
  const int64_t out_bytes = Pieces::bytes<float>(2 * chunks.rows * kLanes);
  Pieces pieces(scratch.reserve(std::size_t(linear_bytes + out_bytes)));
  auto* memory = pieces.take<std::byte>(linear_bytes);  // the two products run one after the other
  auto* out_memory = pieces.take<float>(2 * chunks.rows * kLanes);
  for (int64_t row = part.rows.begin; row < part.rows.end; row += chunks.rows) {
    const Range rows{row, smaller(row + chunks.rows, part.rows.end)};
    const FloatRows values{x.values + row * x.stride, x.stride};
    const FloatProduct gate(values, *product.gate, rows.end - row, memory);
    const FloatProduct up(values, *product.up, rows.end - row, memory);
    gated_panels(gate, up, product, rows, part.panels, out_memory);
  }
}

void gated_bfloat(const LinearInput& x, const GatedProduct& product, Part part, Scratch& scratch) {
  const Chunks chunks(x, *product.gate, part.rows);
  auto* memory = reinterpret_cast<float*>(
      scratch.reserve(std::size_t(Pieces::bytes<float>(2 * chunks.rows * kLanes))));
  for (int64_t row = part.rows.begin; row < part.rows.end; row += chunks.rows) {
    const Range rows{row, smaller(row + chunks.rows, part.rows.end)};
    const BfloatRows values{x.bfloats + row * x.stride, x.stride};
    const BfloatProduct gate(values, *product.gate, rows.end - row);
    const BfloatProduct up(values, *product.up, rows.end - row);
    gated_panels(gate, up, product, rows, part.panels, memory);
  }
}

void multiply_gated(const LinearInput& x, const GatedProduct& product, Part part,
                    Scratch& scratch) {
  if (x.quantized)
    gated_integer(x, product, part, scratch);
  else if (x.bfloats)
    gated_bfloat(x, product, part, scratch);
  else
    gated_float(x, product, part, scratch);
}

template <class Decode>
void embed(const PackedMatrix& matrix, int64_t output, float* out) {
  constexpr int64_t n = Decode::inputs;
  const Panel panel = panel_of(matrix, output / kPanelOutputs);
  const int64_t group = matrix.format().group;
  GroupScale scale{};
  for (int64_t k = 0; k < matrix.inputs(); k += n) {
    if (group != 0 && k % group == 0) scale = group_scale(panel, k / group);
    f32x16 w[n];
    Decode::decode(panel.codes + k / n * Decode::bytes, scale, w);
    for (int64_t i = 0; i < smaller(n, matrix.inputs() - k); ++i) {
      float lanes[kLanes];
      store(lanes, w[i]);
      out[k + i] = lanes[output % kPanelOutputs];
    }
  }
}

// Its panel is read from the beginning: units have no place of their own.
void embed_masked(const PackedMatrix& matrix, int64_t output, float* out) {
  const Panel panel = panel_of(matrix, output / kPanelOutputs);
  const int64_t group = matrix.format().group;
  with_masked(matrix.format(), panel.codes, [&](auto codes) {
    GroupScale scale{};
    for (int64_t k = 0; k < matrix.inputs(); k += 16) {
      if (k % group == 0) scale = group_scale(panel, k / group);
      f32x16 w[16];
      decode_unit(codes, scale, w);
      for (int64_t i = 0; i < smaller(16, matrix.inputs() - k); ++i) {
        float lanes[kLanes];
        store(lanes, w[i]);
        out[k + i] = lanes[output % kPanelOutputs];
      }
    }
  });
}

void embed_row(const PackedMatrix& matrix, int64_t output, float* out) {
  switch (matrix.format().codes) {
    case CodeFormat::f32:
      return embed<DecodeF32>(matrix, output, out);
    case CodeFormat::f16:
      return embed<DecodeF16>(matrix, output, out);
    case CodeFormat::bf16:
      return embed<DecodeBf16>(matrix, output, out);
    case CodeFormat::int8:
      return embed<DecodeInt8>(matrix, output, out);
    case CodeFormat::int4:
      return embed<DecodeInt4>(matrix, output, out);
    case CodeFormat::int2:
      return embed<DecodeUnit<Packed2>>(matrix, output, out);
    case CodeFormat::int3:
      return embed<DecodeUnit<Packed3>>(matrix, output, out);
    case CodeFormat::int5:
      return embed<DecodeUnit<Packed5>>(matrix, output, out);
    case CodeFormat::int6:
      return embed<DecodeUnit<Packed6>>(matrix, output, out);
    case CodeFormat::nf4:
      return embed<DecodeUnit<PackedLevels<Nf4>>>(matrix, output, out);
    case CodeFormat::iq4_nl:
      return embed<DecodeUnit<PackedLevels<Iq4>>>(matrix, output, out);
    case CodeFormat::mxfp4:
      return embed<DecodeUnit<PackedLevels<E2m1>>>(matrix, output, out);
    case CodeFormat::int8_2of4:
      return embed<DecodeUnit<Sparse8>>(matrix, output, out);
    case CodeFormat::int4_2of4:
      return embed<DecodeUnit<Sparse4>>(matrix, output, out);
    case CodeFormat::int8_masked:
    case CodeFormat::int4_masked:
      return embed_masked(matrix, output, out);
  }
}

void activate(Activation kind, const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = int(smaller(kLanes, count - i));
    store(y + i, activation(kind, load(x + i, n)), n);
  }
}

void gate(Activation kind, const float* gate, const float* up, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = int(smaller(kLanes, count - i));
    store(y + i, activation(kind, load(gate + i, n)) * load(up + i, n), n);
  }
}

#if defined(SLIPSTREAM_ISA_AMX)
constexpr Isa kIsa = Isa::amx;
#elif defined(SLIPSTREAM_ISA_AVX512)
constexpr Isa kIsa = Isa::avx512;
#elif defined(SLIPSTREAM_ISA_AVX2)
constexpr Isa kIsa = Isa::avx2;
#elif defined(SLIPSTREAM_ISA_I8MM)
constexpr Isa kIsa = Isa::i8mm;
#elif defined(SLIPSTREAM_ISA_NEON)
constexpr Isa kIsa = Isa::neon;
#else
constexpr Isa kIsa = Isa::portable;
#endif

}  // namespace

extern const LinearKernels linear_table;
const LinearKernels linear_table = {kIsa,           quantize_rows, round_rows, multiply,
                                    multiply_gated, embed_row,     activate,   gate};

}  // namespace slipstream::SLIPSTREAM_ISA
