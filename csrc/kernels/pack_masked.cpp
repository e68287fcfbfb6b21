#include "kernels/pack_masked.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "kernels/pack_sparse.h"

namespace slipstream {
namespace {

constexpr int64_t kUnitInputs = 16, kSteps = 4, kStepInputs = 4;
constexpr int64_t kMaskBytes = 8;  // of a step

// Sixteen inputs of the outputs of a panel, in the order of its masks: [step][output][input].
struct Unit {
  int8_t code[kSteps][kPanelOutputs * kStepInputs];
};

Unit read_unit(const SourceMatrix& source, int64_t panel, int64_t k) {
  Unit unit{};
  const int64_t first = panel * kPanelOutputs;
  const int64_t outputs = std::min(kPanelOutputs, source.outputs - first);
  if (k >= source.inputs) return unit;
  for (int64_t lane = 0; lane < outputs; ++lane) {
    int8_t codes[kUnitInputs];
    read_codes(source, first + lane, k, kUnitInputs, codes);
    for (int64_t step = 0; step < kSteps; ++step)
      std::memcpy(unit.code[step] + lane * kStepInputs, codes + step * kStepInputs, kStepInputs);
  }
  return unit;
}

int64_t inputs_padded(const SourceMatrix& source) {
  return (source.inputs + kInputPadding - 1) / kInputPadding * kInputPadding;
}

int64_t kept_of(const int8_t (&codes)[kPanelOutputs * kStepInputs]) {
  int64_t kept = 0;
  for (const int8_t code : codes) kept += code != 0;
  return kept;
}

int64_t bytes_of(int64_t kept, bool nibbles) { return nibbles ? (kept + 1) / 2 : kept; }

// The codes of one step that are not zero, from `out` on; returns their mask.
uint64_t pack_step(const int8_t (&codes)[kPanelOutputs * kStepInputs], bool nibbles,
                   std::byte* out) {
  uint64_t mask = 0;
  int64_t next = 0;
  for (int i = 0; i < kPanelOutputs * kStepInputs; ++i) {
    if (codes[i] == 0) continue;
    mask |= uint64_t(1) << i;
    if (!nibbles)
      out[next] = std::byte(codes[i]);
    else if (next % 2 == 0)
      out[next / 2] = std::byte(codes[i] & 15);
    else
      out[next / 2] |= std::byte((codes[i] & 15) << 4);
    ++next;
  }
  return mask;
}

}  // namespace

MaskedSize masked_size(const SourceMatrix& source, Range panels, int64_t most) {
  const bool nibbles = source.code_format == CodeFormat::int4;
  MaskedSize size;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    int64_t bytes = 0;
    for (int64_t k = 0; k < inputs_padded(source); k += kUnitInputs) {
      const Unit unit = read_unit(source, panel, k);
      for (const auto& step : unit.code) {
        const int64_t kept = kept_of(step);
        size.kept += kept;
        bytes += kMaskBytes + bytes_of(kept, nibbles);
      }
    }
    size.panel_bytes = std::max(size.panel_bytes, bytes);
    if (bytes > most) break;
  }
  return size;
}

int64_t masked_code_bytes(int64_t panel_bytes) {
  const auto line = int64_t(kCacheLine);
  return (panel_bytes + line - 1) / line * line;
}

int64_t masked_code_bytes(const SourceMatrix& source) {
  const int64_t panels = (source.outputs + kPanelOutputs - 1) / kPanelOutputs;
  const MaskedSize size = masked_size(source, {0, panels}, std::numeric_limits<int64_t>::max());
  return masked_code_bytes(size.panel_bytes);
}

void pack_masked(const SourceMatrix& source, PackedMatrix& packed, int64_t panel) {
  const bool nibbles = source.code_format == CodeFormat::int4;
  std::byte* unit = packed.codes(panel);
  const std::byte* end = unit + packed.format().code_bytes;
  for (int64_t k = 0; k < packed.inputs_padded(); k += kUnitInputs) {
    const Unit codes = read_unit(source, panel, k);
    int64_t needed = kSteps * kMaskBytes;
    for (const auto& step : codes.code) needed += bytes_of(kept_of(step), nibbles);
    if (needed > end - unit)
      throw std::invalid_argument("more weights than the panel has room for");
    std::byte* out = unit + kSteps * kMaskBytes;
    for (int64_t step = 0; step < kSteps; ++step) {
      const uint64_t mask = pack_step(codes.code[step], nibbles, out);
      std::memcpy(unit + step * kMaskBytes, &mask, sizeof mask);
      out += bytes_of(kept_of(codes.code[step]), nibbles);
    }
    unit = out;
  }
}

}  // namespace slipstream
