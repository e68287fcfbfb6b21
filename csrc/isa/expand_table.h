// For each byte of a mask, which of the codes that follow goes to each of its eight places:
// 2 × 256 × 8 bytes for the byte shuffles of isa/expand.h. `second` chooses in the upper eight of
// sixteen codes; 0x80 chooses none.
#pragma once

#include <cstdint>

namespace slipstream {

struct ExpandTable {
  uint8_t first[256][8];
  uint8_t second[256][8];
};

constexpr ExpandTable make_expand_table() {
  ExpandTable out{};
  for (int mask = 0; mask < 256; ++mask)
    for (int i = 0, next = 0; i < 8; ++i) {
      const bool kept = (mask >> i & 1) != 0;
      out.first[mask][i] = kept ? uint8_t(next) : uint8_t(0x80);
      out.second[mask][i] = kept ? uint8_t(8 + next) : uint8_t(0x80);
      next += kept;
    }
  return out;
}

alignas(64) inline constexpr ExpandTable kExpandTable = make_expand_table();

}  // namespace slipstream
