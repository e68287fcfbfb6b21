// Products of bytes: the integer half of the vector interface. A step is four inputs of sixteen
// outputs, 64 weight bytes as pack.h lays them, times the same four int8 activations for every
// output; sums are exact in int32.
//
//   weights    Bytes load_bytes(p); low_nibbles(b) high_nibbles(b) → codes 0 … 15
//              field<from, to, mask>(b): the bits `mask` << from of each byte, moved to `to`
//              plane<step, to>(p): of 32 bytes, bit `step` of byte i at `to` of byte i, and bit
//              4 + step at `to` of byte 32 + i
//              look_up<Levels>(b): for codes 0 … 15 the int8 levels; b | c; as_i32(b): four bytes a
//              lane
//   rows       Quad load_quad(p): four activations, given to every lane
//   4 bits     NibbleSum start(w, a), add(sum, w, a): at most kNibbleSteps steps, then widen(sum) →
//   i32x16 8 bits     SignedBytes signed_bytes(b); start(w, a), add(sum, w, a) → i32x16: Σ (q +
//   kSignedOffset)·a
#pragma once

#include "isa/vec.h"

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)
#include "isa/bytes_avx512.h"
#elif defined(SLIPSTREAM_ISA_AVX2)
#include "isa/bytes_avx2.h"
#elif defined(SLIPSTREAM_ISA_NEON)
#include "isa/bytes_neon.h"
#else
#include "isa/bytes_portable.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

// What a sum in 16 bits can take: 8 steps · 2 products · 15 · 127 = 30480 < 32768.
constexpr int kNibbleSteps = 8;

}  // namespace slipstream::SLIPSTREAM_ISA
