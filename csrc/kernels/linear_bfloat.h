// bfloat16 rows × bfloat16 weights, compiled per instruction set: the order of additions of AMX's
// product (linear.h), which fused multiply-adds give too. Where there are tiles they do all rows;
// else a tile of a few rows keeps the two chains of a block of 32 inputs in registers.
#pragma once

#include "isa/subnormals.h"
#include "kernels/linear_panel.h"
#if defined(SLIPSTREAM_ISA_AMX)
#include "kernels/linear_bfloat_tiles.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kBfloatBlock = 32;  // inputs whose products are summed apart

// Rows of bfloat16, zeros from the last input up to a multiple of 64.
struct BfloatRows {
  const uint16_t* values;
  int64_t stride;  // in elements
};

// Both bfloat16 of each lane as float32.
SLIPSTREAM_INLINE void widen_pairs(i32x16 pairs, f32x16& even, f32x16& odd) {
  even = as_f32(shift_left<16>(pairs));
  odd = as_f32(pairs & set1_i32(int32_t(0xffff0000)));
}

SLIPSTREAM_INLINE i32x16 broadcast_pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, 4);
  return set1_i32(pair);
}

// sums [R] of rows from `rows` on against one panel.
template <int R>
SLIPSTREAM_INLINE void add_blocks(const std::byte* codes, int64_t inputs_padded,
                                  const uint16_t* rows, int64_t stride, f32x16 (&sums)[R]) {
  for (int64_t k = 0; k < inputs_padded; k += kBfloatBlock) {
    const auto* weights = reinterpret_cast<const int32_t*>(codes + k * 2 * kLanes);
    prefetch(codes + k * 2 * kLanes + 4096, kBfloatBlock * 2 * kLanes);
    f32x16 even[R], odd[R];
    SLIPSTREAM_UNROLL(8)
    for (int r = 0; r < R; ++r) even[r] = odd[r] = zero_f32();
    for (int64_t i = 0; i < kBfloatBlock / 2; ++i) {
      f32x16 first_weight, second_weight;
      widen_pairs(load_i32(weights + i * kLanes), first_weight, second_weight);
      SLIPSTREAM_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        f32x16 a, b;
        widen_pairs(broadcast_pair(rows + r * stride + k + 2 * i), a, b);
        even[r] = fma(first_weight, a, even[r]);
        odd[r] = fma(second_weight, b, odd[r]);
      }
    }
    SLIPSTREAM_UNROLL(8)
    for (int r = 0; r < R; ++r) sums[r] = sums[r] + (even[r] + odd[r]);
  }
}

// Rows [first, first + R) of x against one panel.
template <int R>
void bfloat_tile(const std::byte* codes, int64_t inputs_padded, const BfloatRows& x, int64_t first,
                 const PanelOutput& out) {
  const uint16_t* rows = x.values + first * x.stride;
  f32x16 sums[R];
  SLIPSTREAM_UNROLL(8)
  for (int r = 0; r < R; ++r) sums[r] = zero_f32();
  {
    const SubnormalsAreZero zeros;
    add_blocks<R>(codes, inputs_padded, rows, x.stride, sums);
    zeros.settle(sums);
  }
  SLIPSTREAM_UNROLL(8)
  for (int r = 0; r < R; ++r) store_output(out, first + r, sums[r]);
}

// One packed matrix against the rows of a chunk.
class BfloatProduct {
 public:
  BfloatProduct(const BfloatRows& x, const PackedMatrix& matrix, int64_t rows)
      : matrix_(matrix), x_(x), row_count_(rows) {}

#if defined(SLIPSTREAM_ISA_AMX)
  int64_t panels_at_once(int64_t left) const { return left >= 2 ? 2 : 1; }

  // All rows × `count` panels from `index` on; panel p goes to outs[p].
  void panels(int64_t index, int64_t count, const PanelOutput* outs) const {
    const std::byte* codes[2] = {matrix_.codes(index), matrix_.codes(index + count - 1)};
    if (count == 2)
      tile_all_rows<2>(codes, matrix_.inputs_padded(), x_.values, x_.stride, row_count_, outs);
    else
      tile_all_rows<1>(codes, matrix_.inputs_padded(), x_.values, x_.stride, row_count_, outs);
  }
#else
  int64_t panels_at_once(int64_t) const { return 1; }

  void panels(int64_t index, int64_t, const PanelOutput* outs) const {
    const std::byte* codes = matrix_.codes(index);
    const int64_t inputs = matrix_.inputs_padded();
    int64_t row = 0;
    for (; row + kTileRows <= row_count_; row += kTileRows)
      bfloat_tile<kTileRows>(codes, inputs, x_, row, outs[0]);
    for (; row + 2 <= row_count_; row += 2) bfloat_tile<2>(codes, inputs, x_, row, outs[0]);
    if (row < row_count_) bfloat_tile<1>(codes, inputs, x_, row, outs[0]);
  }
#endif

  void panel(int64_t index, const PanelOutput& out) const { panels(index, 1, &out); }

  // The same panel of this matrix and of another one, of the same shape and rows.
  friend void gate_and_up(const BfloatProduct& gate, const BfloatProduct& up, int64_t index,
                          const PanelOutput* outs) {
#if defined(SLIPSTREAM_ISA_AMX)
    const std::byte* codes[2] = {gate.matrix_.codes(index), up.matrix_.codes(index)};
    tile_all_rows<2>(codes, gate.matrix_.inputs_padded(), gate.x_.values, gate.x_.stride,
                     gate.row_count_, outs);
#else
    gate.panel(index, outs[0]);
    up.panel(index, outs[1]);
#endif
  }

 private:
#if defined(SLIPSTREAM_ISA_AVX512)
  static constexpr int kTileRows = 6;
#elif defined(SLIPSTREAM_ISA_NEON) || defined(SLIPSTREAM_ISA_I8MM)
  static constexpr int kTileRows = 3;
#elif !defined(SLIPSTREAM_ISA_AMX)
  static constexpr int kTileRows = 2;  // 2 × 4 sums, 4 weights, 2 values: 14 registers
#endif

  const PackedMatrix& matrix_;
  BfloatRows x_;
  int64_t row_count_;
};

// Rows of float32, rounded to nearest even; `out` is as long as inputs_padded.
inline void round_rows(const float* x, int64_t stride, int64_t inputs, int64_t inputs_padded,
                       uint16_t* out, Range rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* from = x + row * stride;
    uint16_t* to = out + row * inputs_padded;
    for (int64_t k = 0; k < inputs_padded; k += kLanes) {
      const int64_t left = smaller(kLanes, inputs - k);
      if (left == kLanes)
        store_bf16(to + k, load(from + k));
      else
        store_bf16(to + k, left > 0 ? load(from + k, int(left)) : zero_f32());
    }
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
