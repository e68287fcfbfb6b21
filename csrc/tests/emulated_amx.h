// The AMX intrinsics that isa/tiles.h and the kernels over it use, as plain loops: one thread's
// eight tiles, and the checks that the processor makes (a wrong configuration aborts).
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace slipstream::emulated {

struct Tile {
  uint8_t row[16][64];
};

struct TileUnit {
  bool configured = false;
  int rows[8] = {};
  Tile tile[8];

  void require(bool condition, const char* what) const {
    if (condition) return;
    std::fprintf(stderr, "emulated AMX: %s\n", what);
    std::abort();
  }
  Tile& use(int index) {
    require(configured, "a tile is used before _tile_loadconfig");
    return tile[index];
  }
  // What the processor checks before a product of rows `a` and the 16 steps of `b` into `c`.
  void require_shapes(int c, int a, int b) const {
    require(rows[c] == rows[a], "sums and rows differ in height");
    require(rows[b] == 16, "the right tile has fewer steps than a row has inputs");
  }
};

inline thread_local TileUnit tile_unit;

inline void tile_loadconfig(const void* memory) {
  const auto* bytes = static_cast<const uint8_t*>(memory);
  tile_unit.require(bytes[0] == 1, "the palette must be 1");
  for (int i = 0; i < 8; ++i) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, bytes + 16 + 2 * i, 2);
    tile_unit.require(row_bytes == 64, "rows of tiles must have 64 bytes");
    tile_unit.require(bytes[48 + i] >= 1 && bytes[48 + i] <= 16, "tiles must have 1 to 16 rows");
    tile_unit.rows[i] = bytes[48 + i];
  }
  tile_unit.configured = true;
}
inline void tile_release() { tile_unit.configured = false; }
inline void tile_zero(int index) { std::memset(&tile_unit.use(index), 0, sizeof(Tile)); }
inline void tile_loadd(int index, const void* memory, int64_t stride) {
  Tile& tile = tile_unit.use(index);
  std::memset(&tile, 0, sizeof tile);
  for (int r = 0; r < tile_unit.rows[index]; ++r)
    std::memcpy(tile.row[r], static_cast<const char*>(memory) + r * stride, 64);
}
inline void tile_stored(int index, void* memory, int64_t stride) {
  const Tile& tile = tile_unit.use(index);
  for (int r = 0; r < tile_unit.rows[index]; ++r)
    std::memcpy(static_cast<char*>(memory) + r * stride, tile.row[r], 64);
}

// TDPBSSD (Weight = int8_t) and TDPBSUD (Weight = uint8_t): C[m][n] += Σ A[m][4k + i] · B[k][4n +
// i].
template <class Weight>
void tile_dot(int c, int a, int b) {
  Tile& sums = tile_unit.use(c);
  const Tile& rows = tile_unit.use(a);
  const Tile& codes = tile_unit.use(b);
  tile_unit.require_shapes(c, a, b);
  for (int m = 0; m < tile_unit.rows[c]; ++m)
    for (int n = 0; n < 16; ++n) {
      int32_t sum;
      std::memcpy(&sum, sums.row[m] + 4 * n, 4);
      for (int k = 0; k < 64; ++k)
        sum += int32_t(int8_t(rows.row[m][k])) * int32_t(Weight(codes.row[k / 4][4 * n + k % 4]));
      std::memcpy(sums.row[m] + 4 * n, &sum, 4);
    }
}

// A subnormal operand or result is a zero of its sign.
inline float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }
inline float bfloat(const uint8_t* row, int at) {
  uint16_t half;
  std::memcpy(&half, row + 2 * at, 2);
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return flushed(x);
}

// TDPBF16PS: C[m][n] += (Σ A[m][2k] · B[k][2n]) + (Σ A[m][2k + 1] · B[k][2n + 1]), each product and
// its addition rounded once.
inline void tile_dot_bf16(int c, int a, int b) {
  Tile& sums = tile_unit.use(c);
  const Tile& rows = tile_unit.use(a);
  const Tile& weights = tile_unit.use(b);
  tile_unit.require_shapes(c, a, b);
  for (int m = 0; m < tile_unit.rows[c]; ++m)
    for (int n = 0; n < 16; ++n) {
      float half[2] = {0.0f, 0.0f}, sum;
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 2; ++i)
          half[i] = flushed(
              std::fma(bfloat(rows.row[m], 2 * k + i), bfloat(weights.row[k], 2 * n + i), half[i]));
      std::memcpy(&sum, sums.row[m] + 4 * n, 4);
      sum = flushed(flushed(sum) + flushed(half[0] + half[1]));
      std::memcpy(sums.row[m] + 4 * n, &sum, 4);
    }
}

}  // namespace slipstream::emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig ::slipstream::emulated::tile_loadconfig
#define _tile_release ::slipstream::emulated::tile_release
#define _tile_zero ::slipstream::emulated::tile_zero
#define _tile_loadd ::slipstream::emulated::tile_loadd
#define _tile_stored ::slipstream::emulated::tile_stored
#define _tile_dpbssd ::slipstream::emulated::tile_dot<int8_t>
#define _tile_dpbsud ::slipstream::emulated::tile_dot<uint8_t>
#define _tile_dpbf16ps ::slipstream::emulated::tile_dot_bf16
