#include "kernels/pack.h"

#include <stdexcept>
#include <utility>

#include "kernels/pack_codes.h"

namespace slipstream {
namespace {

constexpr std::size_t kOutputs = std::size_t(kPanelOutputs);

std::size_t rounded_up(std::size_t size, std::size_t unit) {
  return (size + unit - 1) / unit * unit;
}

std::size_t scale_bytes(ScaleFormat format) { return format == ScaleFormat::f16 ? 2 : 4; }

// Bytes of the codes of two inputs, so that int4 is whole.
std::size_t pair_bytes(CodeFormat format) {
  switch (format) {
    case CodeFormat::f32:
      return 8;
    case CodeFormat::f16:
      return 4;
    case CodeFormat::bf16:
      return 4;
    case CodeFormat::int8:
      return 2;
    case CodeFormat::int4:
      return 1;
  }
  throw std::invalid_argument("unknown code format");
}

void check(const MatrixFormat& format, int64_t outputs, int64_t inputs) {
  if (outputs < 1 || inputs < 1) throw std::invalid_argument("a matrix needs outputs and inputs");
  if (inputs > (int64_t(1) << 16)) throw std::invalid_argument("more than 65536 inputs");
  if (format.dense()) {
    if (format.group != 0) throw std::invalid_argument("a dense matrix has no groups");
    return;
  }
  if (format.codes == CodeFormat::int4 && inputs % 2 != 0)
    throw std::invalid_argument("4-bit codes need an even number of inputs");
  if (format.group == inputs) return;
  if (format.group < 16 || format.group % 16 != 0 || inputs % format.group != 0)
    throw std::invalid_argument(
        "a group must be a multiple of 16 that divides the inputs, or the whole row");
}

}  // namespace

PackedMatrix::PackedMatrix(const MatrixFormat& format, int64_t outputs, int64_t inputs,
                           Arena* arena)
    : format_(format), outputs_(outputs), inputs_(inputs) {
  lay_out();
  if (arena != nullptr) {
    Arena::Piece piece = arena->take(size_bytes());
    panels_ = piece.data;
    owner_ = std::move(piece.owner);
  } else {
    auto own = std::make_shared<AlignedBuffer>(size_bytes());
    panels_ = own->data();
    owner_ = std::move(own);
  }
}

PackedMatrix::PackedMatrix(const MatrixFormat& format, int64_t outputs, int64_t inputs,
                           std::shared_ptr<const void> owner, const std::byte* panels,
                           std::size_t size)
    : format_(format),
      outputs_(outputs),
      inputs_(inputs),
      owner_(std::move(owner)),
      panels_(const_cast<std::byte*>(panels)) {
  lay_out();
  if (size != size_bytes()) throw std::invalid_argument("packed panels of another size");
  if (reinterpret_cast<std::uintptr_t>(panels) % kCacheLine != 0)
    throw std::invalid_argument("packed panels must begin on a cache line");
}

void PackedMatrix::lay_out() {
  check(format_, outputs_, inputs_);
  groups_ = format_.dense() ? 0 : inputs_ / format_.group;
  const std::size_t lanes = std::size_t(groups_) * kOutputs;
  const std::size_t minimum_bytes = format_.has_minimums ? scale_bytes(format_.minimums) : 0;
  scales_at_ = std::size_t(inputs_padded()) / 2 * pair_bytes(format_.codes) * kOutputs;
  minimums_at_ = scales_at_ + rounded_up(lanes * scale_bytes(format_.scales), kCacheLine);
  panel_bytes_ = minimums_at_ + rounded_up(lanes * minimum_bytes, kCacheLine);
}

MatrixFormat packed_format(const SourceMatrix& source) {
  MatrixFormat format;
  format.codes = source.code_format;
  if (format.dense()) return format;
  format.group = source.group;
  format.scales = source.scale_format;
  format.has_minimums = source.offset_format != OffsetFormat::none;
  format.minimums =
      source.offset_format == OffsetFormat::minimum_f16 ? ScaleFormat::f16 : ScaleFormat::f32;
  return format;
}

void pack(const SourceMatrix& source, PackedMatrix& packed, Range panels) {
  if (source.outputs != packed.outputs() || source.inputs != packed.inputs())
    throw std::invalid_argument("the packed matrix has another shape than its source");
  if (panels.begin < 0 || panels.end > packed.panels())
    throw std::invalid_argument("panels outside the matrix");
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    pack_codes(source, packed, panel);
    if (!packed.format().dense()) pack_scales(source, packed, panel);
  }
}

PackedMatrix pack(const SourceMatrix& source) {
  PackedMatrix packed(packed_format(source), source.outputs, source.inputs);
  pack(source, packed, {0, packed.panels()});
  return packed;
}

}  // namespace slipstream
