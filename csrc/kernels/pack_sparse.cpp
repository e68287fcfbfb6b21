#include "kernels/pack_sparse.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace slipstream {
namespace {

constexpr int64_t kUnitInputs = 16;

// The two codes that are kept of four, and which they are.
struct Pair {
  int8_t code[2] = {0, 0};
  int place[2] = {0, 1};
};

Pair pair_of(const int8_t* four) {
  Pair pair;
  int kept = 0;
  for (int i = 0; i < 4; ++i) {
    if (four[i] == 0) continue;
    if (kept == 2) throw std::invalid_argument("more than two of four weights are not zero");
    pair.code[kept] = four[i];
    pair.place[kept++] = i;
  }
  // A zero goes where the other code is not.
  if (kept == 1) pair.place[1] = pair.place[0] == 0 ? 1 : 0;
  return pair;
}

// One lane of a unit: two octets of four codes, then their places (isa/chosen.h).
void pack_lane(const int8_t* inputs, int64_t lane, bool nibbles, std::byte* unit) {
  const int64_t places_at = nibbles ? 64 : 128;
  for (int64_t i = 0; i < 8; ++i) {
    const int64_t half = i / 4;
    const Pair pair = pair_of(inputs + i / 2 * 4);
    const int code = pair.code[i % 2];
    const int64_t at = lane * 4 + i % 4;
    if (nibbles)
      unit[at] |= std::byte((code + 8) << (4 * half));
    else
      unit[64 * half + at] = std::byte(code);
    unit[places_at + at % 32] |= std::byte(pair.place[i % 2] << (4 * half + at / 32 * 2));
  }
}

int kept_of(const int8_t* four) {
  return (four[0] != 0) + (four[1] != 0) + (four[2] != 0) + (four[3] != 0);
}

}  // namespace

void read_codes(const SourceMatrix& source, int64_t output, int64_t k, int64_t count, int8_t* out) {
  const int64_t there = std::min(count, source.inputs - k);
  std::memset(out, 0, size_t(count));
  if (source.code_format == CodeFormat::int8) {
    const auto* codes = static_cast<const int8_t*>(source.codes);
    std::memcpy(out, codes + output * source.inputs + k, size_t(there));
    return;
  }
  const auto* nibbles = static_cast<const uint8_t*>(source.codes) + output * (source.inputs / 2);
  for (int64_t i = 0; i < there; ++i)
    out[i] = int8_t((nibbles[(k + i) / 2] >> ((k + i) % 2 * 4) & 15) - 8);
}

bool can_be_sparse(const SourceMatrix& source) {
  const bool codes =
      source.code_format == CodeFormat::int8 || source.code_format == CodeFormat::int4;
  return codes && source.offset_format == OffsetFormat::none &&
         source.scale_format != ScaleFormat::nested;
}

bool two_of_four(const SourceMatrix& source, Range outputs) {
  int8_t codes[64];
  for (int64_t output = outputs.begin; output < outputs.end; ++output)
    for (int64_t k = 0; k < source.inputs; k += 64) {
      read_codes(source, output, k, 64, codes);
      int fullest = 0;
      for (int i = 0; i < 64; i += 4) fullest = std::max(fullest, kept_of(codes + i));
      if (fullest > 2) return false;
    }
  return true;
}

void pack_sparse(const SourceMatrix& source, PackedMatrix& packed, int64_t panel) {
  const bool nibbles = packed.format().codes == CodeFormat::int4_2of4;
  const int64_t unit_bytes = nibbles ? 96 : 160;
  const int64_t first = panel * kPanelOutputs;
  std::byte* unit = packed.codes(panel);
  int8_t codes[kUnitInputs];
  for (int64_t k = 0; k < packed.inputs_padded(); k += kUnitInputs, unit += unit_bytes) {
    std::memset(unit, 0, size_t(unit_bytes));
    for (int64_t lane = 0; lane < kPanelOutputs; ++lane) {
      std::memset(codes, 0, sizeof codes);
      if (first + lane < source.outputs && k < source.inputs)
        read_codes(source, first + lane, k, kUnitInputs, codes);
      pack_lane(codes, lane, nibbles, unit);
    }
  }
}

}  // namespace slipstream
