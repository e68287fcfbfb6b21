// bfloat16 rows × bfloat16 weights on AMX: up to 32 rows × two panels in four tiles of sums, which
// stay in their registers for all inputs. A panel's codes lie as the right-hand tile wants them.
// Compiled for the set `amx` only.
#pragma once

#include "isa/tiles.h"
#include "kernels/linear_panel.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kBfloatTileInputs = 32;

// sums [P · T][16][16] of P panels × T tiles of rows: tile t of panel p at p · T + t.
template <int P, int T>
SLIPSTREAM_INLINE void bfloat_sums(const std::byte* const* codes, int64_t inputs_padded,
                                   const uint16_t* rows, int64_t stride, float* sums) {
  constexpr int64_t tile = kTileHeight * kLanes;
  _tile_zero(0);
  if constexpr (T == 2) _tile_zero(1);
  if constexpr (P == 2) _tile_zero(2);
  if constexpr (P == 2 && T == 2) _tile_zero(3);
  for (int64_t k = 0; k < inputs_padded; k += kBfloatTileInputs) {
    const int64_t at = k * 2 * kLanes;
    _tile_loadd(4, rows + k, 2 * stride);
    if constexpr (T == 2) _tile_loadd(5, rows + kTileHeight * stride + k, 2 * stride);
    prefetch(codes[0] + at + 4096, kBfloatTileInputs * 2 * kLanes);
    _tile_loadd(6, codes[0] + at, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (T == 2) _tile_dpbf16ps(1, 5, 6);
    if constexpr (P == 2) {
      prefetch(codes[1] + at + 4096, kBfloatTileInputs * 2 * kLanes);
      _tile_loadd(7, codes[1] + at, 64);
      _tile_dpbf16ps(2, 4, 7);
      if constexpr (T == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 64);
  if constexpr (T == 2) _tile_stored(1, sums + tile, 64);
  if constexpr (P == 2) _tile_stored(2, sums + T * tile, 64);
  if constexpr (P == 2 && T == 2) _tile_stored(3, sums + 3 * tile, 64);
}

// `count` rows from `first` on, at most 16 for each of T tiles.
template <int P, int T>
void bfloat_block(const std::byte* const* codes, int64_t inputs_padded, const uint16_t* rows,
                  int64_t stride, int64_t first, int64_t count, const PanelOutput* outs) {
  alignas(64) float sums[P * T * kTileHeight * kLanes];
  const auto upper = uint8_t(T == 2 ? kTileHeight : count);
  const auto lower = uint8_t(T == 2 ? count - kTileHeight : count);
  const uint8_t heights[8] = {upper, lower, upper, lower, upper, lower, 16, 16};
  const TileSession session(heights);
  bfloat_sums<P, T>(codes, inputs_padded, rows + first * stride, stride, sums);
  for (int p = 0; p < P; ++p)
    for (int64_t r = 0; r < count; ++r)
      store_output(outs[p], first + r, load(sums + (p * T * kTileHeight + r) * kLanes));
}

template <int P>
void tile_all_rows(const std::byte* const* codes, int64_t inputs_padded, const uint16_t* rows,
                   int64_t stride, int64_t count, const PanelOutput* outs) {
  for (int64_t row = 0; row < count; row += 2 * kTileHeight) {
    const int64_t left = count - row < 2 * kTileHeight ? count - row : 2 * kTileHeight;
    if (left > kTileHeight)
      bfloat_block<P, 2>(codes, inputs_padded, rows, stride, row, left, outs);
    else
      bfloat_block<P, 1>(codes, inputs_padded, rows, stride, row, left, outs);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
