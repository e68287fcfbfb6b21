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
    return 4 * Pieces::bytes<float>(factors) + 2 * Pieces::bytes<float>(lanes) +
           Pieces::bytes<std::byte>(matrix.inputs_padded() * kLanes);
  }

  // `memory`: bytes() of it, on a cache line; it must outlive the product.
  IntegerProduct(const ActivationBlock& x, const PackedMatrix& matrix, Range rows,
                 const LinearChoice& choice, std::byte* memory)
      : matrix_(matrix),
        merging_(merging_of(x, matrix)),
        row_count_(rows.end - rows.begin),
        choice_(choice) {
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
    if (row_count_ <= choice_.direct_rows) {
      const Ahead ahead{int64_t(matrix_.panel_bytes()) / merging_.groups, choice_.prefetch_bytes};
      if (nibbles) return integer_rows<PackedNibbles>(packed, merging_, rows_, all(), out, ahead);
      return integer_rows<SignedCodes>(packed, merging_, rows_, all(), out, ahead);
    }
    const Panel loose = unpack(packed);
    Range rows = all();
#if defined(SLIPSTREAM_ISA_AMX)
    rows.begin = tile_rows(loose, merging_, rows_, nibbles, row_count_, out);
#endif
    if (nibbles) return integer_rows<LooseNibbles>(loose, merging_, rows_, rows, out, Ahead{});
    integer_rows<SignedCodes>(loose, merging_, rows_, rows, out, Ahead{});
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

  // Points rows_ at what each merge group needs, computing what the block does not hold.
  void prepare_rows(const ActivationBlock& x, Range rows, Pieces& pieces) {
    const int64_t groups = merging_.groups, count = row_count_ * groups;
    auto* scales_memory = pieces.take<float>(count);
    auto* terms = pieces.take<float>(count);
    auto* sums_memory = pieces.take<int32_t>(count);
    auto* corrections = pieces.take<int32_t>(count);
    const float* scales = x.scales + rows.begin * groups;
    if (x.groups != groups) scales = spread_scales(x, rows, scales_memory);
    const int32_t* sums = x.sums + rows.begin * groups;
    if (x.sum_groups != groups) sums = merge_sums(x, rows, sums_memory);
    rows_ = {
        x.codes + rows.begin * x.inputs_padded, x.inputs_padded, groups, scales, nullptr, nullptr};
    if (matrix_.format().has_minimums) {
      for (int64_t i = 0; i < count; ++i) terms[i] = scales[i] * float(sums[i]);
      rows_.terms = terms;
    }
    if (const int32_t excess = sum_excess()) {
      for (int64_t i = 0; i < count; ++i) corrections[i] = excess * sums[i];
      rows_.corrections = corrections;
    }
  }

  // Each activation group's scale for all its merge groups.
  const float* spread_scales(const ActivationBlock& x, Range rows, float* out) const {
    const int64_t ratio = (x.group - 1) / merging_.inputs + 1;
    float* next = out;
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for (int64_t g = 0; g < merging_.groups; ++g) *next++ = x.scales[row * x.groups + g / ratio];
    return out;
  }

  // The sums of each merge group, from the block's finer ones.
  const int32_t* merge_sums(const ActivationBlock& x, Range rows, int32_t* out) const {
    const int64_t ratio = (merging_.inputs - 1) / x.sum_group + 1;
    int32_t* next = out;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int32_t* sums = x.sums + row * x.sum_groups;
      for (int64_t begin = 0; begin < x.sum_groups; begin += ratio) {
        int32_t sum = 0;
        for (int64_t i = begin; i < smaller(begin + ratio, x.sum_groups); ++i) sum += sums[i];
        *next++ = sum;
      }
    }
    return out;
  }

  // The panel with one code a byte and float32 scales, in scratch where the packed form differs.
  Panel unpack(const Panel& packed) const {
    Panel loose = packed;
    if (matrix_.format().codes == CodeFormat::int4) {
      for (int64_t step = 0; step < matrix_.inputs_padded() / kStepInputs; ++step) {
        if (step % 2 == 0) __builtin_prefetch(packed.codes + step * 32 + choice_.prefetch_bytes);
        store_bytes(loose_codes_ + step * 64, PackedNibbles::step(packed.codes, step));
      }
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
  LinearChoice choice_;
  IntegerRows rows_{};
  float* loose_scales_ = nullptr;
  float* loose_minimums_ = nullptr;
  std::byte* loose_codes_ = nullptr;
};

}  // namespace slipstream::SLIPSTREAM_ISA
