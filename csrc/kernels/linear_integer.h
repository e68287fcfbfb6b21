// int8 rows × int4 or int8 weights, compiled per instruction set: the micro-kernel and its panel.
//
// A tile is R rows × one panel. For each merge group the tile sums products as integers, then adds
// the group to its float accumulators; linear.h states the order. Few rows read the packed codes
// directly; many rows read a panel that was unpacked once into scratch.
#pragma once

#include "kernels/linear_codes.h"
#include "kernels/linear_panel.h"
#if defined(SLIPSTREAM_ISA_I8MM)
#include "isa/pairs_i8mm.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kStepInputs = 4;

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

// What is asked for ahead of use: each tile asks for so many bytes with each merge group, from
// where the tile before it ended.
struct Ahead {
  const std::byte* next = nullptr;
  int64_t bytes = 0;  // 0: nothing
};

#if defined(SLIPSTREAM_ISA_I8MM)
// dot[r] gains kSteps steps of row r, two rows and two steps at a time.
template <class Codes, int R, int kSteps, bool fresh>
SLIPSTREAM_INLINE void add_pairs(const std::byte* codes, const int8_t* rows, int64_t stride,
                                 i32x16 (&dot)[R]) {
  PairSum sums[R / 2];
  SLIPSTREAM_UNROLL(16)
  for (int p = 0; p < R / 2; ++p) sums[p] = zero_pair();
  SLIPSTREAM_UNROLL(8)
  for (int s = 0; s < kSteps; s += 2) {
    const WovenBytes w =
        weave(signed_bytes(Codes::step(codes, s)), signed_bytes(Codes::step(codes, s + 1)));
    SLIPSTREAM_UNROLL(16)
    for (int p = 0; p < R / 2; ++p)
      sums[p] = add(sums[p], w, load_pair(rows + 2 * p * stride + s * kStepInputs, stride));
  }
  SLIPSTREAM_UNROLL(16)
  for (int p = 0; p < R / 2; ++p) {
    const i32x16 first = first_row(sums[p]), second = second_row(sums[p]);
    dot[2 * p] = fresh ? first : dot[2 * p] + first;
    dot[2 * p + 1] = fresh ? second : dot[2 * p + 1] + second;
  }
}
#endif

// dot[r] gains kSteps steps of row r; `fresh`: it held nothing before.
template <class Codes, int R, int kSteps, bool fresh>
SLIPSTREAM_INLINE void add_steps(const std::byte* codes, const int8_t* rows, int64_t stride,
                                 i32x16 (&dot)[R]) {
#if defined(SLIPSTREAM_ISA_I8MM)
  if constexpr (R % 2 == 0) return add_pairs<Codes, R, kSteps, fresh>(codes, rows, stride, dot);
#endif
  if constexpr (Codes::nibbles) {
    constexpr int at_once = kSteps < Codes::narrow_steps ? kSteps : Codes::narrow_steps;
    static_assert(kSteps % at_once == 0);
    SLIPSTREAM_UNROLL(8)
    for (int begin = 0; begin < kSteps; begin += at_once) {
      NibbleSum sums[R];
      SLIPSTREAM_UNROLL(8)
      for (int s = 0; s < at_once; ++s) {
        const Bytes w = Codes::step(codes, begin + s);
        SLIPSTREAM_UNROLL(16)
        for (int r = 0; r < R; ++r) {
          const Quad a = load_quad(rows + r * stride + (begin + s) * kStepInputs);
          sums[r] = s == 0 ? start(w, a) : add(sums[r], w, a);
        }
      }
      SLIPSTREAM_UNROLL(16)
      for (int r = 0; r < R; ++r)
        dot[r] = fresh && begin == 0 ? widen(sums[r]) : dot[r] + widen(sums[r]);
    }
  } else if constexpr (kRowBytes<Codes> == 2) {
    SLIPSTREAM_UNROLL(16)
    for (int s = 0; s < 2 * kSteps; ++s) {
      const auto w = Codes::half_step(codes, s);
      SLIPSTREAM_UNROLL(16)
      for (int r = 0; r < R; ++r) {
        const Quad a = load_quad(rows + r * stride + s * 4);
        dot[r] = fresh && s == 0 ? start(w, a) : add(dot[r], w, a);
      }
    }
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
    rows += 8 * kStepInputs * kRowBytes<Codes>;
    if (steps < 8) return add_steps<Codes, R, 4, false>(codes, rows, stride, dot);
    add_steps<Codes, R, 8, false>(codes, rows, stride, dot);
  }
}

// What a tile is compiled for: `minimums` when the matrix has them, and `group_steps` when every
// merge group has just so many steps (8: groups of 32 inputs, the usual ones; 0: any).
template <class CodesType, bool has_minimums, int steps_fixed>
struct Kind {
  using Codes = CodesType;
  static constexpr bool minimums = has_minimums;
  static constexpr int group_steps = steps_fixed;
  // Whether the integer sums hold more than Σ a·q: see IntegerProduct::sum_excess.
  static constexpr bool corrections = Codes::nibbles ? !has_minimums : kSignedOffset != 0;
};

// sums[r] gains one merge group, whose integer sum is dot[r]; linear.h states the order.
template <class K, int R>
SLIPSTREAM_INLINE void merge_group_of(const Panel& panel, int64_t weight_group,
                                      const IntegerRows& x, int64_t factor, i32x16 (&dot)[R],
                                      f32x16 (&sums)[R]) {
  const f32x16 scales = load_scales(panel.scales, weight_group);
  f32x16 minimums = scales;
  if constexpr (K::minimums) minimums = load_scales(panel.minimums, weight_group);
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < R; ++r) {
    const int64_t at = factor + r * x.groups;
    if constexpr (K::corrections) dot[r] = dot[r] - set1_i32(x.corrections[at]);
    sums[r] = fma(to_f32(dot[r]), scales * set1(x.scales[at]), sums[r]);
    if constexpr (K::minimums) sums[r] = fma(minimums, set1(x.terms[at]), sums[r]);
  }
}

// The tile: rows [first, first + R) of `x` against one panel, written to the same rows of `out`.
template <class K, int R>
void integer_tile(const Panel& panel, const Merging& merging, const IntegerRows& x, int64_t first,
                  const PanelOutput& out, const Ahead& ahead) {
  using Codes = typename K::Codes;
  const int8_t* rows = x.codes + first * x.stride;
  const std::byte* codes = panel.codes;
  const int64_t group_steps = K::group_steps ? K::group_steps : merging.inputs / kStepInputs;
  const int64_t steps_end = merging.inputs_padded / kStepInputs;
  f32x16 sums[R];
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < R; ++r) sums[r] = zero_f32();
  int64_t weight_group = 0, weight_left = merging.weight_ratio;
  for (int64_t g = 0; g < merging.groups; ++g) {
    if (ahead.bytes) prefetch(ahead.next + g * ahead.bytes, ahead.bytes);
    i32x16 dot[R];
    if constexpr (K::group_steps != 0)
      add_steps<Codes, R, K::group_steps, true>(codes, rows, x.stride, dot);
    else
      dot_group<Codes, R>(codes, rows, x.stride, smaller(group_steps, steps_end - g * group_steps),
                          dot);
    merge_group_of<K, R>(panel, weight_group, x, first * x.groups + g, dot, sums);
    codes += group_steps * Codes::step_bytes;
    rows += group_steps * kStepInputs * kRowBytes<Codes>;
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
template <class K>
void tiled_rows(const Panel& panel, const Merging& merging, const IntegerRows& x, Range rows,
                const PanelOutput& out, Ahead ahead) {
  int64_t row = rows.begin;
  const int64_t tile_bytes = ahead.bytes * merging.groups;
  if constexpr (kTileRows == 4 || K::Codes::fixed_groups)
    for (; row + kTileRows <= rows.end; row += kTileRows, ahead.next += tile_bytes)
      integer_tile<K, kTileRows>(panel, merging, x, row, out, ahead);
  if constexpr (kTileRows > 4)
    for (; row + 4 <= rows.end; row += 4, ahead.next += tile_bytes)
      integer_tile<K, 4>(panel, merging, x, row, out, ahead);
  switch (rows.end - row) {
    case 3:
      return integer_tile<K, 3>(panel, merging, x, row, out, ahead);
    case 2:
      return integer_tile<K, 2>(panel, merging, x, row, out, ahead);
    case 1:
      return integer_tile<K, 1>(panel, merging, x, row, out, ahead);
  }
}

// The same, for whatever kind of matrix the panel belongs to.
template <class Codes>
void integer_rows(const Panel& panel, const Merging& merging, const IntegerRows& x, Range rows,
                  const PanelOutput& out, const Ahead& ahead) {
  const bool eights =
      merging.inputs == 8 * kStepInputs && merging.groups * merging.inputs <= merging.inputs_padded;
  if constexpr (Codes::minimums) {
    if (panel.minimums.data) {
      if constexpr (Codes::fixed_groups)
        if (eights) return tiled_rows<Kind<Codes, true, 8>>(panel, merging, x, rows, out, ahead);
      return tiled_rows<Kind<Codes, true, 0>>(panel, merging, x, rows, out, ahead);
    }
  }
  if constexpr (Codes::fixed_groups)
    if (eights) return tiled_rows<Kind<Codes, false, 8>>(panel, merging, x, rows, out, ahead);
  tiled_rows<Kind<Codes, false, 0>>(panel, merging, x, rows, out, ahead);
}

}  // namespace slipstream::SLIPSTREAM_ISA
