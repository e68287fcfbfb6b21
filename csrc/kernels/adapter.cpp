#include "kernels/adapter.h"

#include <cstring>

namespace slipstream {
namespace {

// [outputs][rank] → [panels][rank][16]; the memory of padded outputs is zero already.
template <class Element>
void fill_panels(const Element* b, const LowRank& shape, Element* panels) {
  for (std::int64_t o = 0; o < shape.outputs; ++o) {
    Element* out = panels + o / kPanelOutputs * shape.rank * kPanelOutputs + o % kPanelOutputs;
    for (std::int64_t j = 0; j < shape.rank; ++j) out[j * kPanelOutputs] = b[o * shape.rank + j];
  }
}

void fill_rows(const void* a, std::size_t width, LowRank& made) {
  const auto* from = static_cast<const std::byte*>(a);
  for (std::int64_t j = 0; j < made.rank; ++j) {
    std::memcpy(made.down.data() + width * j * made.inputs_padded(), from + width * j * made.inputs,
                width * made.inputs);
  }
}

}  // namespace

LowRank make_low_rank(const void* down, const void* up, const LowRank& shape) {
  const std::size_t width = shape.format == CodeFormat::f32 ? 4 : 2;
  const std::int64_t panels = (shape.outputs + kPanelOutputs - 1) / kPanelOutputs;
  LowRank made{shape.inputs, shape.outputs, shape.rank, shape.format, shape.scale, {}, {}};
  made.down = AlignedBuffer(width * shape.rank * shape.inputs_padded());
  made.up = AlignedBuffer(width * panels * shape.rank * kPanelOutputs);
  fill_rows(down, width, made);
  if (width == 4) {
    fill_panels(static_cast<const float*>(up), shape, reinterpret_cast<float*>(made.up.data()));
  } else {
    fill_panels(static_cast<const std::uint16_t*>(up), shape,
                reinterpret_cast<std::uint16_t*>(made.up.data()));
  }
  return made;
}

}  // namespace slipstream
