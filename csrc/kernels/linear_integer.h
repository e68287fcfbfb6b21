// int8 rows × int4 or int8 weights, compiled per instruction set: the micro-kernel and its panel.
//
// A tile is R rows × one panel. For each merge group the tile sums products as integers, then adds
// the group to its float accumulators; linear.h states the order. Few rows read the packed codes
// directly; many rows read a panel that was unpacked once into scratch.
#pragma once

#include "isa/bytes.h"
#include "kernels/linear_panel.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kStepInputs = 4;
constexpr int32_t kNibbleZero = 8;

// How codes lie in memory: `step(codes, s)` gives the 64 codes of step s.
struct PackedNibbles {
  static constexpr bool nibbles = true;
  static constexpr int64_t step_bytes = 32;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    const Bytes two_steps = load_bytes(codes + s / 2 * 64);
    return s % 2 == 0 ? low_nibbles(two_steps) : high_nibbles(two_steps);
  }
};
struct LooseNibbles {
  static constexpr bool nibbles = true;
  static constexpr int64_t step_bytes = 64;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    return load_bytes(codes + s * 64);
  }
};
struct SignedCodes {
  static constexpr bool nibbles = false;
  static constexpr int64_t step_bytes = 64;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    return load_bytes(codes + s * 64);
  }
};

// The rows of a chunk, with what each of their merge groups needs: [rows][groups].
struct IntegerRows {
  const int8_t* codes;
  int64_t stride;
  int64_t groups;
  const float* scales;
  const float* terms;          // sa · float(Σa), for minimums; else null
  const int32_t* corrections;  // what the sums hold too much; null: nothing
};

// How merge groups lie over a matrix.
struct Merging {
  int64_t inputs;         // of one merge group
  int64_t inputs_padded;  // of the matrix
  int64_t groups;
  int64_t weight_ratio;  // merge groups to one group of scales
};

// dot[r] gains kSteps steps of row r; `fresh`: it held nothing before.
template <class Codes, int R, int kSteps, bool fresh>
SLIPSTREAM_INLINE void add_steps(const std::byte* codes, const int8_t* rows, int64_t stride,
                                 i32x16 (&dot)[R]) {
  if constexpr (Codes::nibbles) {
    static_assert(kSteps <= kNibbleSteps);
    NibbleSum sums[R];
    SLIPSTREAM_UNROLL(8)
    for (int s = 0; s < kSteps; ++s) {
      const Bytes w = Codes::step(codes, s);
      SLIPSTREAM_UNROLL(16)
      for (int r = 0; r < R; ++r) {
        const Quad a = load_quad(rows + r * stride + s * kStepInputs);
        sums[r] = s == 0 ? start(w, a) : add(sums[r], w, a);
      }
    }
    SLIPSTREAM_UNROLL(16)
    for (int r = 0; r < R; ++r) dot[r] = fresh ? widen(sums[r]) : dot[r] + widen(sums[r]);
  } else {
    SLIPSTREAM_UNROLL(8)
    for (int s = 0; s < kSteps; ++s) {
      const SignedBytes w = signed_bytes(Codes::step(codes, s));
      SLIPSTREAM_UNROLL(16)
      for (int r = 0; r < R; ++r) {
        const Quad a = load_quad(rows + r * stride + s * kStepInputs);
        dot[r] = fresh && s == 0 ? start(w, a) : add(dot[r], w, a);
      }
    }
  }
}

// dot[r] = Σ codes · row r over a group of `steps` steps, a multiple of four.
template <class Codes, int R>
SLIPSTREAM_INLINE void dot_group(const std::byte* codes, const int8_t* rows, int64_t stride,
                                 int64_t steps, i32x16 (&dot)[R]) {
  if (steps < 8) return add_steps<Codes, R, 4, true>(codes, rows, stride, dot);
  add_steps<Codes, R, 8, true>(codes, rows, stride, dot);
  for (steps -= 8; steps > 0; steps -= 8) {
    codes += 8 * Codes::step_bytes;
    rows += 8 * kStepInputs;
    if (steps < 8) return add_steps<Codes, R, 4, false>(codes, rows, stride, dot);
    add_steps<Codes, R, 8, false>(codes, rows, stride, dot);
  }
}

// The tile: rows [first, first + R) of `x` against one panel, written to the same rows of `out`.
// `ahead` bytes per merge group are asked for kPrefetchDistance early; 0 for a panel in scratch.
template <class Codes, int R>
void integer_tile(const Panel& panel, const Merging& merging, const IntegerRows& x, int64_t first,
                  const PanelOutput& out, int64_t ahead) {
  constexpr int64_t kPrefetchDistance = 4096;
  const int8_t* rows = x.codes + first * x.stride;
  const int64_t at = first * x.groups;
  f32x16 sums[R];
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < R; ++r) sums[r] = zero_f32();
  int64_t weight_group = 0, weight_left = merging.weight_ratio;
  for (int64_t g = 0; g < merging.groups; ++g) {
    const int64_t begin = g * merging.inputs;
    const int64_t steps = smaller(merging.inputs, merging.inputs_padded - begin) / kStepInputs;
    const int64_t step = begin / kStepInputs;
    if (ahead) prefetch(panel.codes + g * ahead + kPrefetchDistance, ahead);
    i32x16 dot[R];
    dot_group<Codes, R>(panel.codes + step * Codes::step_bytes, rows + begin, x.stride, steps, dot);
    const f32x16 scales = load_scales(panel.scales, panel.scale_format, weight_group);
    SLIPSTREAM_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      const int64_t factor = at + r * x.groups + g;
      if (x.corrections) dot[r] = dot[r] - set1_i32(x.corrections[factor]);
      sums[r] = fma(to_f32(dot[r]), scales * set1(x.scales[factor]), sums[r]);
    }
    if (panel.minimums) {
      const f32x16 minimums = load_scales(panel.minimums, panel.minimum_format, weight_group);
      SLIPSTREAM_UNROLL(16)
      for (int r = 0; r < R; ++r)
        sums[r] = fma(minimums, set1(x.terms[at + r * x.groups + g]), sums[r]);
    }
    if (--weight_left == 0) weight_left = merging.weight_ratio, ++weight_group;
  }
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < R; ++r) store_output(out, first + r, sums[r]);
}

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)
constexpr int kTileRows = 12;  // 12 sums and 12 accumulators in 32 registers
#else
constexpr int kTileRows = 4;  // 4 × 2 sums of 16 bits and their weights in 16 registers
#endif

// Rows [rows.begin, rows.end) of the chunk, in tiles as large as fit.
template <class Codes>
void integer_rows(const Panel& panel, const Merging& merging, const IntegerRows& x, Range rows,
                  const PanelOutput& out, int64_t ahead) {
  int64_t row = rows.begin;
  for (; row + kTileRows <= rows.end; row += kTileRows)
    integer_tile<Codes, kTileRows>(panel, merging, x, row, out, ahead);
  if constexpr (kTileRows > 4)
    for (; row + 4 <= rows.end; row += 4)
      integer_tile<Codes, 4>(panel, merging, x, row, out, ahead);
  switch (rows.end - row) {
    case 3: return integer_tile<Codes, 3>(panel, merging, x, row, out, ahead);
    case 2: return integer_tile<Codes, 2>(panel, merging, x, row, out, ahead);
    case 1: return integer_tile<Codes, 1>(panel, merging, x, row, out, ahead);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
