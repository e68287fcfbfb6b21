// int8 rows × unpacked int4 or int8 weights on AMX: the same sums per merge group as
// linear_integer.h, so the same bits. Compiled for the set `amx` only.
#pragma once

#include "isa/tiles.h"
#include "kernels/linear_integer.h"

namespace slipstream::SLIPSTREAM_ISA {

// dots [16 rows][16 outputs] = rows · codes over `inputs` inputs, a multiple of 64.
template <bool nibbles>
SLIPSTREAM_INLINE void tile_dots(const std::byte* codes, const int8_t* rows, int64_t stride,
                                 int64_t inputs, int32_t* dots) {
  _tile_zero(0);
  for (int64_t k = 0; k < inputs; k += kTileInputs) {
    _tile_loadd(1, rows + k, stride);
    _tile_loadd(2, codes + k * kLanes, 64);
    if constexpr (nibbles)
      _tile_dpbsud(0, 1, 2);  // signed rows, unsigned codes
    else
      _tile_dpbssd(0, 1, 2);
  }
  _tile_stored(0, dots, 64);
}

// One merge group's integers into the float sums of 16 rows.
SLIPSTREAM_INLINE void merge_dots(const Panel& panel, int64_t weight_group, const IntegerRows& x,
                                  int64_t factor, const int32_t* corrections, const int32_t* dots,
                                  f32x16 (&sums)[kTileHeight]) {
  const f32x16 scales = load_scales(panel.scales, weight_group);
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < kTileHeight; ++r) {
    const int64_t at = factor + r * x.groups;
    i32x16 dot = load_i32(dots + r * kLanes);
    if (corrections) dot = dot - set1_i32(corrections[at]);
    sums[r] = fma(to_f32(dot), scales * set1(x.scales[at]), sums[r]);
  }
  if (!panel.minimums.data) return;
  const f32x16 minimums = load_scales(panel.minimums, weight_group);
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < kTileHeight; ++r)
    sums[r] = fma(minimums, set1(x.terms[factor + r * x.groups]), sums[r]);
}

// Sixteen rows from `first` on. The tiles run one group ahead of the merging, so that the vector
// units work while the matrix unit does.
template <bool nibbles>
void tile_block(const Panel& panel, const Merging& merging, const IntegerRows& x, int64_t first,
                const PanelOutput& out) {
  alignas(64) int32_t dots[2][kTileHeight * kLanes];
  const int8_t* rows = x.codes + first * x.stride;
  // Signed tiles take int8 codes as they are: nothing to correct.
  const int32_t* corrections = nibbles ? x.corrections : nullptr;
  const auto multiply_group = [&](int64_t g) {
    const int64_t begin = g * merging.inputs;
    const int64_t inputs = smaller(merging.inputs, merging.inputs_padded - begin);
    tile_dots<nibbles>(panel.codes + begin * kLanes, rows + begin, x.stride, inputs, dots[g % 2]);
  };
  f32x16 sums[kTileHeight];
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < kTileHeight; ++r) sums[r] = zero_f32();
  multiply_group(0);
  int64_t weight_group = 0, weight_left = merging.weight_ratio;
  for (int64_t g = 0; g < merging.groups; ++g) {
    if (g + 1 < merging.groups) multiply_group(g + 1);
    merge_dots(panel, weight_group, x, first * x.groups + g, corrections, dots[g % 2], sums);
    if (--weight_left == 0) weight_left = merging.weight_ratio, ++weight_group;
  }
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < kTileHeight; ++r) store_output(out, first + r, sums[r]);
}

// Does as many rows of the chunk as tiles can, from the first on; returns how many.
inline int64_t tile_rows(const Panel& panel, const Merging& merging, const IntegerRows& x,
                         bool nibbles, int64_t count, const PanelOutput& out) {
  if (merging.inputs % kTileInputs != 0 || count < kTileHeight) return 0;
  const TileSession session;
  int64_t row = 0;
  for (; row + kTileHeight <= count; row += kTileHeight) {
    if (nibbles)
      tile_block<true>(panel, merging, x, row, out);
    else
      tile_block<false>(panel, merging, x, row, out);
  }
  return row;
}

}  // namespace slipstream::SLIPSTREAM_ISA
