// How a page stores the keys or the values of one head at 64 positions, and what that takes.
//
//   float32 bfloat16   keys [head_dim][64], values [64][head_dim]
//   int8               the same of codes -127 … 127, then a scale [64]: x ≈ code · scale
//   int4               codes 0 … 15, two to a byte, then a scale [64] and a minimum [64]:
//                      x ≈ code · scale + minimum
//
// where x is the rotated head (kernels/attention_round.h), except of values in int8.
//
// Scales and minimums are bfloat16, of one position and head each: what a position reads back as
// depends on its own key and value alone, so chunks, batches and copies of pages change no bit.
//
//   int4 keys    [rows][64]: dimensions 2·row (low four bits) and 2·row + 1 of a position
//   int4 values  [64][rows]: of each 32 dimensions 16 bytes, the first 16 in the low four bits
//                where rows = head_dim / 2, rounded up to whole 16s
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipstream {

constexpr int kTile = 64;  // positions of a page, and of a tile of attention

constexpr int kWidest = 1024;  // dimensions of a head that is stored as codes

enum class KVFormat { float32, bfloat16, int8, int4 };

// Keys lose more than values when they are rounded, so that the two may differ.
struct KVType {
  KVFormat keys = KVFormat::bfloat16;
  KVFormat values = KVFormat::bfloat16;

  bool operator==(const KVType&) const = default;
};

constexpr int nibble_rows(int head_dim) { return (head_dim + 31) / 32 * 16; }

// Bytes of the elements or codes of one head in a page, without scales.
constexpr std::size_t code_bytes(KVFormat format, int head_dim) {
  const std::size_t elements = static_cast<std::size_t>(head_dim) * kTile;
  switch (format) {
    case KVFormat::float32:
      return 4 * elements;
    case KVFormat::bfloat16:
      return 2 * elements;
    case KVFormat::int8:
      return elements;
    case KVFormat::int4:
      break;
  }
  return static_cast<std::size_t>(nibble_rows(head_dim)) * kTile;
}

// Bytes of one head in a page: of its keys, or of its values.
constexpr std::size_t head_bytes(KVFormat format, int head_dim) {
  const int scales = format == KVFormat::int4 ? 2 : format == KVFormat::int8 ? 1 : 0;
  return code_bytes(format, head_dim) + sizeof(std::uint16_t) * kTile * scales;
}

}  // namespace slipstream
