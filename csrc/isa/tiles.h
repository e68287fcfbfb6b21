// AMX: eight tile registers of up to 16 rows × 64 bytes, and products of int8 and bfloat16 tiles. A
// TileSession configures them for the calling thread and gives them back; between the two:
//
//   C [16][16] int32   += A [16 rows][64 inputs] · B [16 steps][16 outputs][4 inputs]
//   C [16][16] float32 += A [16 rows][32 inputs] · B [16 pairs][16 outputs][2 inputs]
//
// Tests compile this over csrc/tests/emulated_amx.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "isa/vec.h"

#if defined(SLIPSTREAM_EMULATED)
#include "tests/emulated_amx.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kTileHeight = 16;  // rows of A and C
constexpr int64_t kTileInputs = 64;  // bytes of a row of A

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

class TileSession {
 public:
  // `heights`: rows of each tile.
  SLIPSTREAM_INLINE explicit TileSession(const uint8_t (&heights)[8]) {
    TileConfig config;
    std::memcpy(config.rows, heights, 8);
    load(config);
  }
  SLIPSTREAM_INLINE TileSession() { load(TileConfig()); }
  SLIPSTREAM_INLINE ~TileSession() { _tile_release(); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;

 private:
  SLIPSTREAM_INLINE static void load(const TileConfig& config) {
    // g++ 12 believes that _tile_loadconfig reads 8 bytes; the barrier makes it write all 64.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
};

}  // namespace slipstream::SLIPSTREAM_ISA
