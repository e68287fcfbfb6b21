// The low-rank part that an adapter (LoRA) adds to a linear: y += scale · B (A x), in float32.
//
//   shrink   t_j = scale · Σ_k A[j, k] · x_k      lane l sums k = l, l + 16, … in ascending order
//   by
//                                                 fma; the 16 lanes are then added in a fixed tree
//   expand   y_o = y_o + Σ_j B[o, j] · t_j        by fma from zero, j ascending
//
// So each output depends on its row, the adapter and one order of additions, never on the batch,
// the ranges or the instruction set.
//
// Both matrices are stored in the order in which they are read, padded with zeros:
//
//   A  [rank / 4][inputs / 16][4][16]     B  [outputs / 16][rank][16]
//
// See S-LoRA (arXiv 2311.03285) and Punica (arXiv 2310.18547) for the batching.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa/isa.h"
#include "isa/memory.h"
#include "kernels/pack.h"

namespace slipstream {

constexpr std::int64_t kRankBlock = 4;

// What one adapter adds to one matrix. Elements are of a dense format, as they came.
struct LowRank {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  std::int64_t rank = 0;
  CodeFormat format = CodeFormat::f32;
  float scale = 1.0f;
  const std::byte* down = nullptr;  // A
  const std::byte* up = nullptr;    // B

  SLIPSTREAM_INLINE std::int64_t chunks() const { return (inputs + 15) / 16; }
  SLIPSTREAM_INLINE std::int64_t panels() const { return (outputs + 15) / 16; }
  // What the two take, whole cache lines.
  std::size_t down_bytes() const;
  std::size_t up_bytes() const;
};

constexpr int kAdapterRows = 16;

// Rows that have one adapter, wherever they are.
struct AdapterRows {
  int count = 0;
  const float* wide[kAdapterRows];  // x [inputs]
  float* narrow[kAdapterRows];      // t [rank]
  float* out[kAdapterRows];         // y, at its output 0
};

struct AdapterKernels {
  // t from x.
  void (*shrink)(const LowRank& adapter, const AdapterRows& rows);
  // Adds to the outputs of some panels of y.
  void (*expand)(const LowRank& adapter, const AdapterRows& rows, Range panels);
};

const AdapterKernels& adapter_kernels(Isa isa);

// Copies A [rank, inputs], or B [outputs, rank], row-major and of `shape.format`, to zeroed memory
// of the size that it takes.
void pack_down(const LowRank& shape, const void* a, std::byte* out);
void pack_up(const LowRank& shape, const void* b, std::byte* out);

}  // namespace slipstream
