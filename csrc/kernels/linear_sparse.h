// int8 rows × weights of which two of each four inputs are kept, compiled per instruction set: how
// the codes lie (pack.h), and the micro-kernel that gives each code the activation it belongs to.
//
// A sum holds the products that are not zero, exactly, so it equals that of the dense kernel, and
// so does everything after it. The codes types also give dense steps, as linear_codes.h has them,
// for whoever reads a panel unpacked.
#pragma once

#include "isa/chosen.h"
#include "kernels/linear_integer.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kUnitInputs = 16;  // two octets: 64 codes each, then 32 bytes of places

struct Int4Levels {
  static constexpr int8_t levels[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
};

struct Pairs8 {
  static constexpr int64_t step_bytes = 40;
  static constexpr int64_t places_at = 128;
  template <int half>
  SLIPSTREAM_INLINE static Bytes octet(const std::byte* unit) {
    return load_bytes(unit + 64 * half);
  }
};
struct Pairs4 {
  static constexpr int64_t step_bytes = 24;
  static constexpr int64_t places_at = 64;
  template <int half>
  SLIPSTREAM_INLINE static Bytes octet(const std::byte* unit) {
    const Bytes both = load_bytes(unit);
    return look_up<Int4Levels>(half == 0 ? low_nibbles(both) : high_nibbles(both));
  }
};

template <class Pairs>
struct TwoOfFour : Pairs {
  static constexpr bool minimums = false;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = false;
  static constexpr int bits = 8;
  template <int s>
  SLIPSTREAM_INLINE static Bytes step_of(const std::byte* unit) {
    return spread<s % 2 * 2>(Pairs::template octet<s / 2>(unit),
                             places<s / 2>(unit + Pairs::places_at));
  }
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    const std::byte* unit = codes + s / 4 * (4 * Pairs::step_bytes);
    switch (s % 4) {
      case 0:
        return step_of<0>(unit);
      case 1:
        return step_of<1>(unit);
      case 2:
        return step_of<2>(unit);
      default:
        return step_of<3>(unit);
    }
  }
};
using Sparse8 = TwoOfFour<Pairs8>;
using Sparse4 = TwoOfFour<Pairs4>;

// sums[r] gains eight inputs of row r.
template <class Codes, int R, int half>
SLIPSTREAM_INLINE void add_octet(const std::byte* unit, const int8_t* rows, int64_t stride,
                                 ChosenSum (&sums)[R]) {
  const SignedBytes w = signed_bytes(Codes::template octet<half>(unit));
  const Bytes at = places<half>(unit + Codes::places_at);
  SLIPSTREAM_UNROLL(4)
  for (int r = 0; r < R; ++r)
    sums[r] = add_chosen(sums[r], w, load_octet(rows + r * stride + 8 * half), at);
}

// Nothing is added to a sum that would have to be taken off, and there are no minimums.
struct SparseKind {
  static constexpr bool minimums = false;
  static constexpr bool corrections = false;
};

// The tile of linear_integer.h: rows [first, first + R) of `x` against one panel.
template <class Codes, int R>
void sparse_tile(const Panel& panel, const Merging& merging, const IntegerRows& x, int64_t first,
                 const PanelOutput& out, const Ahead& ahead) {
  constexpr int64_t unit_bytes = kUnitInputs / kStepInputs * Codes::step_bytes;
  const int8_t* rows = x.codes + first * x.stride;
  const std::byte* unit = panel.codes;
  f32x16 sums[R];
  SLIPSTREAM_UNROLL(4)
  for (int r = 0; r < R; ++r) sums[r] = zero_f32();
  int64_t weight_group = 0, weight_left = merging.weight_ratio;
  for (int64_t g = 0; g < merging.groups; ++g) {
    if (ahead.bytes) prefetch(ahead.next + g * ahead.bytes, ahead.bytes);
    const int64_t inputs = smaller(merging.inputs, merging.inputs_padded - g * merging.inputs);
    ChosenSum chosen[R];
    SLIPSTREAM_UNROLL(4)
    for (int r = 0; r < R; ++r) chosen[r] = no_chosen();
    for (int64_t k = 0; k < inputs; k += kUnitInputs) {
      add_octet<Codes, R, 0>(unit, rows, x.stride, chosen);
      add_octet<Codes, R, 1>(unit, rows, x.stride, chosen);
      unit += unit_bytes;
      rows += kUnitInputs;
    }
    i32x16 dot[R];
    SLIPSTREAM_UNROLL(4)
    for (int r = 0; r < R; ++r) dot[r] = widen(chosen[r]);
    merge_group_of<SparseKind, R>(panel, weight_group, x, first * x.groups + g, dot, sums);
    if (--weight_left == 0) weight_left = merging.weight_ratio, ++weight_group;
  }
  SLIPSTREAM_UNROLL(4)
  for (int r = 0; r < R; ++r) store_output(out, first + r, sums[r]);
}

// Rows [rows.begin, rows.end) of the chunk, four at a time.
template <class Codes>
void sparse_rows(const Panel& panel, const Merging& merging, const IntegerRows& x, Range rows,
                 const PanelOutput& out, Ahead ahead) {
  int64_t row = rows.begin;
  for (; row + 4 <= rows.end; row += 4, ahead.next += ahead.bytes * merging.groups)
    sparse_tile<Codes, 4>(panel, merging, x, row, out, ahead);
  switch (rows.end - row) {
    case 3:
      return sparse_tile<Codes, 3>(panel, merging, x, row, out, ahead);
    case 2:
      return sparse_tile<Codes, 2>(panel, merging, x, row, out, ahead);
    case 1:
      return sparse_tile<Codes, 1>(panel, merging, x, row, out, ahead);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
