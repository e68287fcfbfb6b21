// The linear kernels: y = x · Wᵀ + bias, with W packed (pack.h) and x float32, or rounded to int8
// or bfloat16.
//
// The value of y[r, o] depends on row r, output o and one fixed order of float operations, never on
// the instruction set, the tile, the ranges or who else is in the batch:
//
//   int8 input   acc = 0; for each merge group g ascending:
//                  acc = fma(float(Σ a·q), sw·sa, acc); with minimums acc = fma(min, sa·float(Σ a),
//                  acc)
//                the sums are exact in int32 (4-bit symmetric: Σ a·(q - 8)); a merge group is the
//                smaller of the weight's group and the activation's, and one must divide the other
//   f32 input    acc = 0; for each input k ascending: acc = fma(w, x_k, acc), w in float32
//   bf16 input   (bf16 weights only) acc = 0; for each 32 inputs ascending: even = odd = 0; for
//                each pair of inputs even = fma(w, x, even) of its first, odd likewise of its
//                second; acc = acc + (even + odd). Subnormals among operands and results are zeros.
//                So adds the AMX instruction.
//   all          y = acc + bias
//
// NaN or infinity in a row reaches every output of that row that reads it (with int8 input, every
// output of the row, as NaN); other rows are not touched. Which NaN it is, is not promised.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa/isa.h"
#include "isa/memory.h"
#include "kernels/pack.h"

namespace slipstream {

// Rows rounded to int8, and where they lie: a view over memory that the caller owns.
//
//   codes   int8  [rows][inputs_padded]   q = rint(x · (127 / max|x|)), zero past the inputs
//   scales  f32   [rows][groups]          max|x| / 127 of each `group` inputs
//   sums    int32 [rows][sum_groups]      Σ q of each `sum_group` inputs
//
// A group that holds NaN or infinity has scale NaN and codes 0; one whose 127 / max overflows (all
// |x| < 3.8e-37) has codes 0.
struct ActivationBlock {
  int64_t rows = 0;
  int64_t inputs = 0;
  int64_t inputs_padded = 0;
  int64_t group = 0;
  int64_t groups = 0;
  int64_t sum_group = 0;
  int64_t sum_groups = 0;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  int32_t* sums = nullptr;
  float fixed_scale = 0.0f;  // of every group, what lies beyond ±127 of it is clipped; 0: found

  // Bytes that a block of this shape needs. `group` 0 means one scale a row; else a multiple of 16.
  // `sum_group`: any common divisor of the merge groups of all matrices it will meet, e.g. the
  // smallest of them (see merge_group); a multiple of 16, 0 for the whole row.
  static std::size_t size_bytes(int64_t rows, int64_t inputs, int64_t group, int64_t sum_group);
  // `memory` is aligned to 64 bytes.
  static ActivationBlock place(std::byte* memory, int64_t rows, int64_t inputs, int64_t group,
                               int64_t sum_group);
};

// The inputs whose products are summed as integers before they meet float: the smaller of the two
// groups (`activation_group` 0: the whole row). std::invalid_argument when neither divides the
// other or the matrix is dense.
int64_t merge_group(const PackedMatrix& matrix, int64_t activation_group);

// The rows a product reads: `quantized` or `bfloats` [rows][inputs, zeros up to a multiple of 64],
// whichever is set, else float32 `values` [rows][inputs]; rows lie `stride` elements apart.
struct LinearInput {
  const ActivationBlock* quantized = nullptr;
  const float* values = nullptr;
  int64_t stride = 0;
  const uint16_t* bfloats = nullptr;
};

// How a product is computed, never what: every choice gives the same bits.
struct LinearChoice {
  // Up to so many rows of int8 read the packed codes in each of their tiles; more of them unpack a
  // panel first. Unpacking again fills ports that sums leave idle, so it costs a tile only a few
  // hundredths, and its loads no more. 576 × 1536 int4, 32 rows: 97 GMAC/s against 93 (lab, Zen 3).
  int32_t direct_rows = 32;
  // How far ahead of its use packed memory is asked for. One row of 576 × 1536 int4: 9 GB/s
  // without, 13 at 1 KiB, 14–17 at 4 and at 16 (lab, Zen 3).
  int32_t prefetch_bytes = 4096;
};

// y [rows][outputs], rows `y_stride` floats apart. `bias` [outputs] or null.
struct Product {
  const PackedMatrix* matrix = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  LinearChoice choice;
};

enum class Activation { silu, gelu, gelu_tanh, relu };

// y = activation(x · Gateᵀ + gate_bias) · (x · Upᵀ + up_bias). Both matrices have one shape; their
// formats may differ.
struct GatedProduct {
  const PackedMatrix* gate = nullptr;
  const PackedMatrix* up = nullptr;
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  Activation kind = Activation::silu;
  float* y = nullptr;
  int64_t y_stride = 0;
  LinearChoice choice;
};

// Which part of y a call computes: rows × panels of 16 outputs. Parts that do not overlap may be
// computed by different threads at once; each thread has its own Scratch.
struct Part {
  Range rows;
  Range panels;
};

struct LinearKernels {
  Isa isa;
  // Rounds rows [rows.begin, rows.end) of x (rows `stride` floats apart) into the same rows of out.
  void (*quantize_rows)(const float* x, int64_t stride, ActivationBlock& out, Range rows);
  // Rounds the same rows to bfloat16, nearest even: out [rows][inputs_padded], zeros past inputs.
  void (*round_rows)(const float* x, int64_t stride, int64_t inputs, int64_t inputs_padded,
                     uint16_t* out, Range rows);
  void (*multiply)(const LinearInput& x, const Product& product, Part part, Scratch& scratch);
  void (*multiply_gated)(const LinearInput& x, const GatedProduct& product, Part part,
                         Scratch& scratch);
  // out[0 … inputs) = row `output` of the matrix in float32: an embedding looked up in a tied head.
  void (*embed_row)(const PackedMatrix& matrix, int64_t output, float* out);
  // y = activation(x), and y = activation(gate) · up, over `count` floats; y may be an input.
  void (*activate)(Activation kind, const float* x, float* y, int64_t count);
  void (*gate)(Activation kind, const float* gate, const float* up, float* y, int64_t count);
};

// The table of one instruction set; ask only for a supported one.
const LinearKernels& linear_kernels(Isa isa);

// The whole matrix in float32, [outputs][inputs], row-major: for tests and inspection.
void dequantize(const PackedMatrix& matrix, float* out);

}  // namespace slipstream
