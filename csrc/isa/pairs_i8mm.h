// Products of pairs of rows on 64-bit ARM with the matrix product (FEAT_I8MM): one `smmla` takes
// two rows, two outputs and eight inputs, twice the work of an `sdot`. The panels stay as they are:
// two steps of four inputs are woven into eight of two outputs, once for all pairs of a tile. The
// sums are exact, so they are those of isa/bytes_neon.h. Included for the set `i8mm` only.
#pragma once

#include "isa/bytes.h"

namespace slipstream::SLIPSTREAM_ISA {

// Two steps of codes: v[j] holds eight inputs of output 2j, then of output 2j + 1.
struct WovenBytes {
  int8x16_t v[8];
};
// v[j] holds outputs 2j and 2j + 1 of the first row, then of the second.
struct PairSum {
  int32x4_t v[8];
};

SLIPSTREAM_INLINE WovenBytes weave(const SignedBytes& first, const SignedBytes& second) {
  WovenBytes out;
  SLIPSTREAM_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    const int32x4_t a = vreinterpretq_s32_s8(first.v[i]), b = vreinterpretq_s32_s8(second.v[i]);
    out.v[2 * i] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
    out.v[2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
  }
  return out;
}
// Eight inputs of two rows.
SLIPSTREAM_INLINE int8x16_t load_pair(const int8_t* p, int64_t stride) {
  return vcombine_s8(vld1_s8(p), vld1_s8(p + stride));
}
SLIPSTREAM_INLINE PairSum zero_pair() {
  PairSum out;
  SLIPSTREAM_UNROLL(8)
  for (int j = 0; j < 8; ++j) out.v[j] = vdupq_n_s32(0);
  return out;
}
SLIPSTREAM_INLINE PairSum add(const PairSum& sum, const WovenBytes& w, int8x16_t rows) {
  PairSum out;
  SLIPSTREAM_UNROLL(8)
  for (int j = 0; j < 8; ++j) out.v[j] = vmmlaq_s32(sum.v[j], rows, w.v[j]);
  return out;
}
SLIPSTREAM_INLINE i32x16 first_row(const PairSum& sum) {
  SLIPSTREAM_EACH_FOUR(i32x16,
                       vcombine_s32(vget_low_s32(sum.v[2 * i]), vget_low_s32(sum.v[2 * i + 1])));
}
SLIPSTREAM_INLINE i32x16 second_row(const PairSum& sum) {
  SLIPSTREAM_EACH_FOUR(i32x16,
                       vcombine_s32(vget_high_s32(sum.v[2 * i]), vget_high_s32(sum.v[2 * i + 1])));
}

}  // namespace slipstream::SLIPSTREAM_ISA
