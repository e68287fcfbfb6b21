// How codes lie in memory, one type a layout, compiled per instruction set: `step(codes, s)` gives
// the 64 codes of step s (pack.h has the layouts), `codes` being that of a multiple of 16 inputs.
//
//   nibbles       whether codes are unsigned, from 0 on; else they are int8
//   narrow_steps  how many steps of unsigned codes a sum in 16 bits can take (bytes.h): n steps of
//                 c bits reach n · 2 · (2^c - 1) · 127 < 32768
//   minimums      whether matrices of it may have minimums
//   fixed_groups  whether tiles of groups of 32, and the largest tiles, are compiled apart: for the
//                 commonest layouts only, as each costs seconds of compiling on every set
#pragma once

#include <cstddef>

#include "isa/bytes.h"
#include "kernels/codes.h"
#if defined(SLIPSTREAM_ISA_AVX2)
#include "isa/words_avx2.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

// Bytes of one input of the rows that meet a layout.
template <class Codes>
inline constexpr int64_t kRowBytes = 1;

struct PackedNibbles {
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = true;
  static constexpr bool nibbles = true;
  static constexpr int narrow_steps = kNibbleSteps;
  static constexpr int64_t step_bytes = 32;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    const Bytes two_steps = load_bytes(codes + s / 2 * 64);
    return s % 2 == 0 ? low_nibbles(two_steps) : high_nibbles(two_steps);
  }
};
struct LooseNibbles {
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = true;
  static constexpr bool nibbles = true;
  static constexpr int narrow_steps = kNibbleSteps;
  static constexpr int64_t step_bytes = 64;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    return load_bytes(codes + s * 64);
  }
};
// 5 and 6 bits, unpacked.
struct LooseWide : LooseNibbles {
  static constexpr bool fixed_groups = false;
  static constexpr int narrow_steps = 2;
};
struct SignedCodes {
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = true;
  static constexpr bool nibbles = false;
  static constexpr int64_t step_bytes = 64;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    return load_bytes(codes + s * 64);
  }
};

#if defined(SLIPSTREAM_ISA_AVX2)
// int8 codes widened to 16 bits in scratch, against rows widened too: half a step at a time.
struct WideCodes {
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = true;
  static constexpr bool nibbles = false;
  static constexpr int64_t step_bytes = 128;
  SLIPSTREAM_INLINE static Words half_step(const std::byte* codes, int64_t half) {
    return load_words(codes + half * 64);
  }
};
template <>
inline constexpr int64_t kRowBytes<WideCodes> = 2;
#endif

// The parts of one unit of 16 inputs; s is 0 … 3.
template <int to>
SLIPSTREAM_INLINE Bytes two_bits(const std::byte* unit, int64_t s) {
  const Bytes b = load_bytes(unit);
  switch (s) {
    case 0:
      return field<0, to, 3>(b);
    case 1:
      return field<2, to, 3>(b);
    case 2:
      return field<4, to, 3>(b);
    default:
      return field<6, to, 3>(b);
  }
}
template <int to>
SLIPSTREAM_INLINE Bytes one_bit(const std::byte* unit, int64_t s) {
  switch (s) {
    case 0:
      return plane<0, to>(unit);
    case 1:
      return plane<1, to>(unit);
    case 2:
      return plane<2, to>(unit);
    default:
      return plane<3, to>(unit);
  }
}

struct Packed2 {
  static constexpr int bits = 2;
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = true;
  static constexpr int narrow_steps = kNibbleSteps;
  static constexpr int64_t step_bytes = 16;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    return two_bits<0>(codes + s / 4 * 64, s % 4);
  }
};
struct Packed3 {
  static constexpr int bits = 3;
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = true;
  static constexpr int narrow_steps = kNibbleSteps;
  static constexpr int64_t step_bytes = 24;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    const std::byte* unit = codes + s / 4 * 96;
    return two_bits<0>(unit, s % 4) | one_bit<2>(unit + 64, s % 4);
  }
};
struct Packed5 {
  static constexpr int bits = 5;
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = true;
  static constexpr int narrow_steps = 4;
  static constexpr int64_t step_bytes = 40;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    const std::byte* unit = codes + s / 4 * 160;
    return PackedNibbles::step(unit, s % 4) | one_bit<4>(unit + 128, s % 4);
  }
};
struct Packed6 {
  static constexpr int bits = 6;
  static constexpr bool minimums = true;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = true;
  static constexpr int narrow_steps = 2;
  static constexpr int64_t step_bytes = 48;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    const std::byte* unit = codes + s / 4 * 192;
    return PackedNibbles::step(unit, s % 4) | two_bits<4>(unit + 128, s % 4);
  }
};

// Nibbles that choose one of 16 int8 levels.
template <class Levels>
struct PackedLevels {
  static constexpr int bits = 4;
  static constexpr bool minimums = false;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = false;
  static constexpr int64_t step_bytes = 32;
  SLIPSTREAM_INLINE static Bytes step(const std::byte* codes, int64_t s) {
    return look_up<Levels>(PackedNibbles::step(codes, s));
  }
};

}  // namespace slipstream::SLIPSTREAM_ISA
