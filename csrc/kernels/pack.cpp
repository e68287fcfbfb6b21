#include "kernels/pack.h"

#include <stdexcept>
#include <utility>

#include "kernels/pack_codes.h"
#include "kernels/pack_masked.h"
#include "kernels/pack_sparse.h"

namespace slipstream {
namespace {

constexpr std::size_t kOutputs = std::size_t(kPanelOutputs);

std::size_t rounded_up(std::size_t size, std::size_t unit) {
  return (size + unit - 1) / unit * unit;
}

// Bytes of the scales, or minimums, of one panel.
std::size_t scales_bytes(ScaleFormat format, std::size_t groups, std::size_t supers) {
  switch (format) {
    case ScaleFormat::f32:
      return groups * kOutputs * 4;
    case ScaleFormat::f16:
      return groups * kOutputs * 2;
    case ScaleFormat::e8m0:
      return groups * kOutputs;
    case ScaleFormat::nested:
      return (groups + 2 * supers) * kOutputs;
  }
  throw std::invalid_argument("unknown scale format");
}

bool power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

// Each super-group holds so many groups that finding it is a shift.
void check_supers(const MatrixFormat& format, int64_t inputs) {
  const bool nested = format.scales == ScaleFormat::nested;
  if (format.has_minimums && (format.minimums == ScaleFormat::nested) != nested)
    throw std::invalid_argument("scales and minimums are nested together");
  if (!nested) {
    if (format.supers != 0) throw std::invalid_argument("only nested scales have super-groups");
    return;
  }
  const int64_t groups = inputs / format.group;
  if (format.supers < 1 || groups % format.supers != 0 || !power_of_two(groups / format.supers))
    throw std::invalid_argument("a super-group must hold 1, 2, 4, 8 … groups");
}

void check(const MatrixFormat& format, int64_t outputs, int64_t inputs) {
  if (outputs < 1 || inputs < 1) throw std::invalid_argument("a matrix needs outputs and inputs");
  if (inputs > (int64_t(1) << 16)) throw std::invalid_argument("more than 65536 inputs");
  if (format.dense()) {
    if (format.group != 0) throw std::invalid_argument("a dense matrix has no groups");
    return;
  }
  if (bits_of_code(format.codes) <= 4 && inputs % 2 != 0)
    throw std::invalid_argument("codes of 4 bits and fewer need an even number of inputs");
  if (is_codebook(format.codes) && format.has_minimums)
    throw std::invalid_argument("a codebook has no minimums");
  if (is_sparse(format.codes) && (format.has_minimums || format.scales == ScaleFormat::nested))
    throw std::invalid_argument("sparse weights have plain scales and no minimums");
  if (format.minimums == ScaleFormat::e8m0)
    throw std::invalid_argument("minimums are no powers of two");
  if (format.group < 1) throw std::invalid_argument("an integer matrix has groups");
  if (format.group == inputs) return check_supers(format, inputs);
  if (format.group < 16 || format.group % 16 != 0 || inputs % format.group != 0)
    throw std::invalid_argument(
        "a group must be a multiple of 16 that divides the inputs, or the whole row");
  check_supers(format, inputs);
}

// Between nothing but masks and nothing but codes.
void check_code_bytes(const MatrixFormat& format, int64_t inputs_padded) {
  if (!is_masked(format.codes)) {
    if (format.code_bytes != 0) throw std::invalid_argument("only masked codes differ in length");
    return;
  }
  const int64_t masks = inputs_padded * kPanelOutputs / 8;
  const int64_t most = masks + inputs_padded * kPanelOutputs * bits_of_code(format.codes) / 8;
  if (format.code_bytes % int64_t(kCacheLine) != 0 || format.code_bytes < masks ||
      format.code_bytes > most)
    throw std::invalid_argument("a panel of masked codes has an impossible length");
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
  if (format_.scales == ScaleFormat::nested)
    while (format_.supers << super_shift_ < groups_) ++super_shift_;
  const auto groups = std::size_t(groups_), supers = std::size_t(format_.supers);
  check_code_bytes(format_, inputs_padded());
  scales_at_ =
      std::size_t(inputs_padded()) * std::size_t(bits_of_code(format_.codes)) / 8 * kOutputs;
  if (is_masked(format_.codes)) scales_at_ = std::size_t(format_.code_bytes);
  minimums_at_ = scales_at_ + rounded_up(scales_bytes(format_.scales, groups, supers), kCacheLine);
  panel_bytes_ = minimums_at_;
  if (format_.has_minimums)
    panel_bytes_ += rounded_up(scales_bytes(format_.minimums, groups, supers), kCacheLine);
}

namespace {

CodeFormat sparse_codes(const SourceMatrix& source) {
  const bool nibbles = source.code_format == CodeFormat::int4;
  if (source.sparsity == Sparsity::masked)
    return nibbles ? CodeFormat::int4_masked : CodeFormat::int8_masked;
  return nibbles ? CodeFormat::int4_2of4 : CodeFormat::int8_2of4;
}

}  // namespace

MatrixFormat packed_format(const SourceMatrix& source) {
  MatrixFormat format;
  format.codes = source.code_format;
  if (source.sparsity != Sparsity::none) {
    if (!can_be_sparse(source))
      throw std::invalid_argument("only symmetric codes of 4 or 8 bits can be packed sparse");
    format.codes = sparse_codes(source);
    if (is_masked(format.codes))
      format.code_bytes = source.code_bytes ? source.code_bytes : masked_code_bytes(source);
  }
  if (format.dense()) return format;
  format.group = source.group;
  format.scales = source.scale_format;
  format.has_minimums = source.offset_format != OffsetFormat::none;
  format.supers = source.super_count;
  if (source.offset_format == OffsetFormat::minimum_f16) format.minimums = ScaleFormat::f16;
  if (source.offset_format == OffsetFormat::minimum_nested) format.minimums = ScaleFormat::nested;
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
