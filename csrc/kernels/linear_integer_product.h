// One packed integer matrix against a chunk of int8 rows: prepares what its panels share, unpacks a
// panel when many rows will read it, and picks the kernel. Compiled per instruction set.
#pragma once

#include "kernels/linear_integer.h"
#if defined(SLIPSTREAM_ISA_AMX)
#include "kernels/linear_tiles.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

class IntegerProduct {
 public:
  // Scratch for `rows` rows.
  static int64_t bytes(const ActivationBlock& x, const PackedMatrix& matrix, int64_t rows) {
    const int64_t factors = rows * merging_of(x, matrix).groups;
    const int64_t lanes = matrix.groups() * kLanes;
    return 3 * Pieces::bytes<float>(factors) + 2 * Pieces::bytes<float>(lanes) +
           Pieces::bytes<std::byte>(matrix.inputs_padded() * kLanes);
  }

  // `memory`: bytes() of it, on a cache line; it must outlive the product.
  IntegerProduct(const ActivationBlock& x, const PackedMatrix& matrix, Range rows,
                 std::byte* memory)
      : matrix_(matrix), merging_(merging_of(x, matrix)), row_count_(rows.end - rows.begin) {
    Pieces pieces(memory);
    prepare_rows(x, rows, pieces);
    loose_scales_ = pieces.take<float>(matrix.groups() * kLanes);
    loose_minimums_ = pieces.take<float>(matrix.groups() * kLanes);
    loose_codes_ = pieces.take<std::byte>(matrix.inputs_padded() * kLanes);
  }

  // All rows of the chunk × one panel; row r of the chunk goes to row r of `out`.
  void panel(int64_t index, const PanelOutput& out) const {
    const Panel packed = panel_of(matrix_, index);
    const bool nibbles = matrix_.format().codes == CodeFormat::int4;
    if (row_count_ <= kTileRows) {
      const int64_t ahead = int64_t(matrix_.panel_bytes()) / merging_.groups;
      if (nibbles) return integer_rows<PackedNibbles>(packed, merging_, rows_, all(), out, ahead);
      return integer_rows<SignedCodes>(packed, merging_, rows_, all(), out, ahead);
    }
    const Panel loose = unpack(packed);
    Range rows = all();
#if defined(SLIPSTREAM_ISA_AMX)
    rows.begin = tile_rows(loose, merging_, rows_, nibbles, row_count_, out);
#endif
    if (nibbles) return integer_rows<LooseNibbles>(loose, merging_, rows_, rows, out, 0);
    integer_rows<SignedCodes>(loose, merging_, rows_, rows, out, 0);
  }

 private:
  static Merging merging_of(const ActivationBlock& x, const PackedMatrix& matrix) {
    const int64_t merged = smaller(x.group, matrix.format().group);
    const int64_t inputs = merged == x.inputs ? matrix.inputs_padded() : merged;
    return {inputs, matrix.inputs_padded(), (x.inputs - 1) / inputs + 1,
            (matrix.format().group - 1) / inputs + 1};
  }

  Range all() const { return {0, row_count_}; }

  // What the integer sums hold beyond Σ a·q: (zero + offset) · Σa.
  int32_t sum_excess() const {
    const MatrixFormat& format = matrix_.format();
    if (format.codes == CodeFormat::int8) return kSignedOffset;
    return format.has_minimums ? 0 : kNibbleZero;
  }

  void prepare_rows(const ActivationBlock& x, Range rows, Pieces& pieces) {
    const int64_t groups = merging_.groups, count = row_count_ * groups;
    auto* scales = pieces.take<float>(count);
    auto* terms = pieces.take<float>(count);
    auto* corrections = pieces.take<int32_t>(count);
    const int32_t excess = sum_excess();
    const int64_t activation_ratio = (x.group - 1) / merging_.inputs + 1;
    const int64_t sum_ratio = (merging_.inputs - 1) / x.sum_group + 1;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const float* row_scales = x.scales + row * x.groups;
      const int32_t* sums = x.sums + row * x.sum_groups;
      const int32_t* sums_end = sums + x.sum_groups;
      for (int64_t g = 0; g < groups; ++g) {
        int32_t sum = 0;
        for (int64_t i = 0; i < sum_ratio && sums < sums_end; ++i) sum += *sums++;
        const float scale = row_scales[g / activation_ratio];
        *scales++ = scale;
        *terms++ = scale * float(sum);
        *corrections++ = excess * sum;
      }
    }
    rows_ = {x.codes + rows.begin * x.inputs_padded, x.inputs_padded, groups,
             scales - count, terms - count, excess ? corrections - count : nullptr};
  }

  // The panel with one code a byte and float32 scales, in scratch where the packed form differs.
  Panel unpack(const Panel& packed) const {
    Panel loose = packed;
    if (matrix_.format().codes == CodeFormat::int4) {
      for (int64_t step = 0; step < matrix_.inputs_padded() / kStepInputs; ++step)
        store_bytes(loose_codes_ + step * 64, PackedNibbles::step(packed.codes, step));
      loose.codes = loose_codes_;
    }
    loose.scales = widened(packed.scales, packed.scale_format, loose_scales_);
    loose.scale_format = ScaleFormat::f32;
    if (packed.minimums)
      loose.minimums = widened(packed.minimums, packed.minimum_format, loose_minimums_);
    loose.minimum_format = ScaleFormat::f32;
    return loose;
  }

  const std::byte* widened(const std::byte* scales, ScaleFormat format, float* out) const {
    if (format == ScaleFormat::f32) return scales;
    for (int64_t g = 0; g < matrix_.groups(); ++g)
      store(out + g * kLanes, load_scales(scales, format, g));
    return reinterpret_cast<const std::byte*>(out);
  }

  const PackedMatrix& matrix_;
  Merging merging_;
  int64_t row_count_;
  IntegerRows rows_{};
  float* loose_scales_ = nullptr;
  float* loose_minimums_ = nullptr;
  std::byte* loose_codes_ = nullptr;
};

}  // namespace slipstream::SLIPSTREAM_ISA
