// How each format of kernels/kv_format.h is read and written, 16 lanes at a time: what the tiles of
// attention_tile.h are written against. For attention_isa.cpp only; compiled per instruction set.
//
//   kDimensions          that one row of stored keys holds: 2 where bytes hold two codes
//   kBits                of an element
//   kKeyBytes            of one position in a row of keys
//   kScaled kShifted     whether codes need a scale, and a minimum
//   kDealt               whether parts take the even ones of each 16 first, then the odd ones
//   kRotatedValues       whether values are of the rotated head (keys that are codes always are)
//   key_part             kPartLanes positions of one dimension of a row of keys
//   value_part           kPartLanes of one position's values, from dimension d + at on; d is the
//                        first of a tile, a multiple of 32, or of 16 in a tile of 16
//   load_rest            16 values, the last n < 16 of a position
//   write_key, write_value   one position of one head, into its slot
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "isa/vec_parts.h"
#include "kernels/attention_round.h"

namespace slipstream::SLIPSTREAM_ISA {

template <class T>
SLIPSTREAM_INLINE const T* elements(const std::byte* p) {
  return reinterpret_cast<const T*>(p);
}

// Scales of a head's page, and minimums after them: behind its codes.
template <class Page>
SLIPSTREAM_INLINE std::uint16_t* scales_of(std::byte* page, int head_dim) {
  return reinterpret_cast<std::uint16_t*>(page + code_bytes(Page::kFormat, head_dim));
}
template <class Page>
SLIPSTREAM_INLINE const std::uint16_t* scales_of(const std::byte* page, int head_dim) {
  return elements<std::uint16_t>(page + code_bytes(Page::kFormat, head_dim));
}

struct Float32Element {
  using Stored = float;
  static constexpr KVFormat kFormat = KVFormat::float32;
  static constexpr bool kDealt = false;
  static SLIPSTREAM_INLINE f32part part(const float* p, int at) { return load_part(p + at); }
  static SLIPSTREAM_INLINE f32x16 load16(const float* p, int n) { return load(p, n); }
  static SLIPSTREAM_INLINE void store16(float* p, f32x16 v, int n) { store_chunk(p, v, n); }
};

struct BFloat16Element {
  using Stored = std::uint16_t;
  static constexpr KVFormat kFormat = KVFormat::bfloat16;
  static constexpr bool kDealt = kDealtBF16;
  static SLIPSTREAM_INLINE f32part part(const std::uint16_t* p, int at) { return part_bf16(p, at); }
  static SLIPSTREAM_INLINE f32x16 load16(const std::uint16_t* p, int n) { return dealt_bf16(p, n); }
  static SLIPSTREAM_INLINE void store16(std::uint16_t* p, f32x16 v, int n) {
    if (n == 16) {
      store_bf16(p, v);
    } else {
      store_bf16(p, v, n);
    }
  }
};

// Floating-point elements, as they are.
template <class Element>
struct FloatPage {
  using Stored = typename Element::Stored;
  static constexpr KVFormat kFormat = Element::kFormat;
  static constexpr int kDimensions = 1;
  static constexpr int kBits = 8 * sizeof(Stored);
  static constexpr int kKeyBytes = sizeof(Stored);
  static constexpr bool kScaled = false;
  static constexpr bool kShifted = false;
  static constexpr bool kDealt = Element::kDealt;
  static constexpr bool kRotatedValues = false;

  static std::ptrdiff_t value_bytes(int head_dim) { return sizeof(Stored) * head_dim; }

  template <int Dimension>
  static SLIPSTREAM_INLINE f32part key_part(const std::byte* row, int key) {
    return Element::part(elements<Stored>(row), key);
  }
  static SLIPSTREAM_INLINE f32part value_part(const std::byte* row, int d, int at) {
    return Element::part(elements<Stored>(row) + d, at);
  }
  static SLIPSTREAM_INLINE f32x16 load_rest(const std::byte* row, int d, int n) {
    return Element::load16(elements<Stored>(row) + d, n);
  }

  static void write_key(const float* key, int head_dim, std::byte* page, int slot) {
    Stored* column = reinterpret_cast<Stored*>(page) + slot;
    for (int d = 0; d < head_dim; d += 16) {
      const int n = chunk_size(head_dim, d);
      alignas(64) Stored rounded[16];
      Element::store16(rounded, load_chunk(key + d, n), n);
      for (int i = 0; i < n; ++i) column[(d + i) * kTile] = rounded[i];
    }
  }
  static void write_value(const float* value, int head_dim, std::byte* page, int slot) {
    Stored* row = reinterpret_cast<Stored*>(page) + std::ptrdiff_t{slot} * head_dim;
    for (int d = 0; d < head_dim; d += 16) {
      const int n = chunk_size(head_dim, d);
      Element::store16(row + d, load_chunk(value + d, n), n);
    }
  }
};

using Float32Page = FloatPage<Float32Element>;
using BFloat16Page = FloatPage<BFloat16Element>;

// One head of one position, rotated.
struct RotatedHead {
  alignas(64) float values[kWidest];

  RotatedHead(const float* x, int head_dim) {
    std::copy(x, x + head_dim, values);
    rotate_head(values, head_dim);
  }
};

// Codes of eight bits, keys of the rotated head; reading past a row's end meets other rows or
// scales, never what is not ours.
struct Int8Page {
  static constexpr KVFormat kFormat = KVFormat::int8;
  static constexpr int kDimensions = 1;
  static constexpr int kBits = 8;
  static constexpr int kKeyBytes = 1;
  static constexpr bool kScaled = true;
  static constexpr bool kShifted = false;
  static constexpr bool kDealt = false;
  static constexpr bool kRotatedValues = false;

  static std::ptrdiff_t value_bytes(int head_dim) { return head_dim; }

  template <int Dimension>
  static SLIPSTREAM_INLINE f32part key_part(const std::byte* row, int key) {
    return part_i8(elements<std::int8_t>(row) + key);
  }
  static SLIPSTREAM_INLINE f32part value_part(const std::byte* row, int d, int at) {
    return part_i8(elements<std::int8_t>(row) + d + at);
  }
  static SLIPSTREAM_INLINE f32x16 load_rest(const std::byte* row, int d, int) {
    return to_f32(load_i8(elements<std::int8_t>(row) + d));
  }

  static void write_key(const float* key, int head_dim, std::byte* page, int slot) {
    const RotatedHead rotated(key, head_dim);
    alignas(64) std::int8_t codes[kWidest];
    round_int8(rotated.values, head_dim, codes, scales_of<Int8Page>(page, head_dim) + slot);
    std::int8_t* column = reinterpret_cast<std::int8_t*>(page) + slot;
    for (int d = 0; d < head_dim; ++d) column[d * kTile] = codes[d];
  }
  static void write_value(const float* value, int head_dim, std::byte* page, int slot) {
    alignas(64) std::int8_t codes[kWidest];
    round_int8(value, head_dim, codes, scales_of<Int8Page>(page, head_dim) + slot);
    std::copy(codes, codes + head_dim,
              reinterpret_cast<std::int8_t*>(page) + std::ptrdiff_t{slot} * head_dim);
  }
};

// Codes of four bits, keys and values of the rotated head.
struct Int4Page {
  static constexpr KVFormat kFormat = KVFormat::int4;
  static constexpr int kDimensions = 2;
  static constexpr int kBits = 4;
  static constexpr int kKeyBytes = 1;
  static constexpr bool kScaled = true;
  static constexpr bool kShifted = true;
  static constexpr bool kDealt = false;
  static constexpr bool kRotatedValues = true;

  static std::ptrdiff_t value_bytes(int head_dim) { return nibble_rows(head_dim); }

  static SLIPSTREAM_INLINE f32x16 low(i32x16 codes) { return to_f32(codes & set1_i32(15)); }
  static SLIPSTREAM_INLINE f32x16 high(i32x16 codes) { return to_f32(shift_right<4>(codes)); }

  template <int Dimension>
  static SLIPSTREAM_INLINE f32part key_part(const std::byte* row, int key) {
    const std::uint8_t* codes = elements<std::uint8_t>(row) + key;
    return Dimension == 0 ? part_low_codes(codes) : part_high_codes(codes);
  }
  static SLIPSTREAM_INLINE f32part value_part(const std::byte* row, int d, int at) {
    const int odd = (d & 16) + at;  // of the 32 that share 16 bytes
    const std::uint8_t* codes =
        elements<std::uint8_t>(row) + d / 32 * 16 + odd / 32 * 16 + odd % 16;
    return odd & 16 ? part_high_codes(codes) : part_low_codes(codes);
  }
  static SLIPSTREAM_INLINE f32x16 load_rest(const std::byte* row, int d, int) {
    const i32x16 codes = load_u8(elements<std::uint8_t>(row) + d / 32 * 16);
    return d & 16 ? high(codes) : low(codes);
  }

  // Rotates and rounds; codes past head_dim are zero.
  static void round(const float* x, int head_dim, std::int8_t* codes, std::uint16_t* scales) {
    const RotatedHead rotated(x, head_dim);
    round_int4(rotated.values, head_dim, codes, scales);
    std::fill(codes + head_dim, codes + 2 * nibble_rows(head_dim), std::int8_t{0});
  }
  static void write_key(const float* key, int head_dim, std::byte* page, int slot) {
    alignas(64) std::int8_t codes[kWidest];
    round(key, head_dim, codes, scales_of<Int4Page>(page, head_dim) + slot);
    std::byte* column = page + slot;
    for (int i = 0; i < nibble_rows(head_dim); ++i) {
      column[i * kTile] = std::byte(codes[2 * i] | codes[2 * i + 1] << 4);
    }
  }
  static void write_value(const float* value, int head_dim, std::byte* page, int slot) {
    alignas(64) std::int8_t codes[kWidest];
    round(value, head_dim, codes, scales_of<Int4Page>(page, head_dim) + slot);
    std::byte* row = page + std::ptrdiff_t{slot} * nibble_rows(head_dim);
    for (int i = 0; i < nibble_rows(head_dim); ++i) {
      const int d = i / 16 * 32 + i % 16;
      row[i] = std::byte(codes[d] | codes[d + 16] << 4);
    }
  }
};

}  // namespace slipstream::SLIPSTREAM_ISA
