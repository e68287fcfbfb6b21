#include "kernels/adapter.h"

namespace slipstream {
namespace {

std::size_t element_bytes(const LowRank& shape) { return shape.format == CodeFormat::f32 ? 4 : 2; }

std::size_t whole_lines(std::size_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

std::int64_t rank_blocks(const LowRank& shape) {
  return (shape.rank + kRankBlock - 1) / kRankBlock;
}

template <class Element>
void pack_down_as(const LowRank& shape, const Element* a, Element* out) {
  for (std::int64_t j = 0; j < shape.rank; ++j) {
    Element* block = out + j / kRankBlock * shape.chunks() * kRankBlock * 16;
    for (std::int64_t k = 0; k < shape.inputs; ++k)
      block[(k / 16 * kRankBlock + j % kRankBlock) * 16 + k % 16] = a[j * shape.inputs + k];
  }
}

template <class Element>
void pack_up_as(const LowRank& shape, const Element* b, Element* out) {
  for (std::int64_t o = 0; o < shape.outputs; ++o) {
    Element* panel = out + o / 16 * shape.rank * 16 + o % 16;
    for (std::int64_t j = 0; j < shape.rank; ++j) panel[j * 16] = b[o * shape.rank + j];
  }
}

}  // namespace

std::size_t LowRank::down_bytes() const {
  return whole_lines(element_bytes(*this) * rank_blocks(*this) * kRankBlock * chunks() * 16);
}

std::size_t LowRank::up_bytes() const {
  return whole_lines(element_bytes(*this) * panels() * rank * 16);
}

void pack_down(const LowRank& shape, const void* a, std::byte* out) {
  if (shape.format == CodeFormat::f32)
    return pack_down_as(shape, static_cast<const float*>(a), reinterpret_cast<float*>(out));
  pack_down_as(shape, static_cast<const std::uint16_t*>(a), reinterpret_cast<std::uint16_t*>(out));
}

void pack_up(const LowRank& shape, const void* b, std::byte* out) {
  if (shape.format == CodeFormat::f32)
    return pack_up_as(shape, static_cast<const float*>(b), reinterpret_cast<float*>(out));
  pack_up_as(shape, static_cast<const std::uint16_t*>(b), reinterpret_cast<std::uint16_t*>(out));
}

}  // namespace slipstream
