// What integer codes mean, whatever the instruction set: their bits, their levels, the code of
// zero.
#pragma once

#include <cstdint>

#include "isa/inline.h"

namespace slipstream {

// Dense formats first, then integers in the order in which packed files name them.
enum class CodeFormat {
  f32,
  f16,
  bf16,
  int8,
  int4,
  int2,
  int3,
  int5,
  int6,
  nf4,
  iq4_nl,
  mxfp4,
  int8_2of4,  // of each four inputs, two that are not zero
  int4_2of4,
  int8_masked,  // those that are not zero, and a bit for each input
  int4_masked,
};

// Levels of the 4-bit codebooks; formats/codebook.py has them too, and says where they come from.
struct Nf4 {
  static constexpr int8_t levels[16] = {-124, -86, -65, -49, -35, -23, -11, 0,
                                        10,   20,  31,  42,  55,  70,  90,  124};
};
struct Iq4 {
  static constexpr int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};
};
struct E2m1 {
  static constexpr int8_t levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
};

SLIPSTREAM_INLINE bool is_codebook(CodeFormat format) {
  return format >= CodeFormat::nf4 && format <= CodeFormat::mxfp4;
}
SLIPSTREAM_INLINE bool is_sparse(CodeFormat format) { return format >= CodeFormat::int8_2of4; }
SLIPSTREAM_INLINE bool is_masked(CodeFormat format) { return format >= CodeFormat::int8_masked; }

// Whether kernels unpack codes to int8, and not to numbers from 0 on.
SLIPSTREAM_INLINE bool has_signed_codes(CodeFormat format) {
  return format == CodeFormat::int8 || is_codebook(format) ||
         (is_sparse(format) && format != CodeFormat::int4_masked);
}

// Bits of a weight as it is packed: the place of one of 2:4 included, of masked ones the code.
SLIPSTREAM_INLINE int bits_of_code(CodeFormat format) {
  switch (format) {
    case CodeFormat::f32:
      return 32;
    case CodeFormat::f16:
    case CodeFormat::bf16:
      return 16;
    case CodeFormat::int8:
    case CodeFormat::int8_masked:
      return 8;
    case CodeFormat::int2:
      return 2;
    case CodeFormat::int3:
    case CodeFormat::int4_2of4:
      return 3;
    case CodeFormat::int5:
    case CodeFormat::int8_2of4:
      return 5;
    case CodeFormat::int6:
      return 6;
    default:
      return 4;
  }
}

// Codes of fewer than 8 bits are packed from 0 on; this one stands for 0 where there is no minimum.
// int8, the levels of codebooks and the codes of 2:4 are signed.
SLIPSTREAM_INLINE int zero_code(CodeFormat format, bool has_minimums) {
  if (has_signed_codes(format) || has_minimums) return 0;
  return 1 << (bits_of_code(format) - 1);
}

}  // namespace slipstream
