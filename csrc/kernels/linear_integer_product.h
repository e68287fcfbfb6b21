// One packed integer matrix against a chunk of int8 rows: prepares what its panels share, unpacks a
// panel when many rows will read it, and picks the kernel. Compiled per instruction set.
#pragma once

#include "kernels/linear_integer.h"
#include "kernels/linear_masked.h"
#include "kernels/linear_sparse.h"
#if defined(SLIPSTREAM_ISA_AMX)
#include "kernels/linear_tiles.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

// Bytes of a signed code in scratch, at most; unsigned ones have one.
#if defined(SLIPSTREAM_ISA_AVX2)
constexpr int64_t kLooseBytes = 2;
#else
constexpr int64_t kLooseBytes = 1;
#endif

// No more rows than these read packed codes, whatever was chosen: the tiles of AMX want an unpacked
// panel, other sets than AVX2 were not measured beyond, and other widths cost more to unpack.
SLIPSTREAM_INLINE int64_t direct_rows_most(CodeFormat codes) {
  if (is_masked(codes)) return kMaskedRows;
#if defined(SLIPSTREAM_ISA_AVX2)
  if (codes == CodeFormat::int4 || codes == CodeFormat::int8) return int64_t(1) << 20;
#else
  (void)codes;
#endif
  return 16;
}

class IntegerProduct {
 public:
  // Scratch for `rows` rows.
  static int64_t bytes(const ActivationBlock& x, const PackedMatrix& matrix, int64_t rows) {
    const int64_t factors = rows * merging_of(x, matrix).groups;
    const int64_t lanes = matrix.groups() * kLanes;
    const int64_t width = has_signed_codes(matrix.format().codes) ? kLooseBytes : 1;
    return 4 * Pieces::bytes<float>(factors) + 2 * Pieces::bytes<float>(lanes) +
           Pieces::bytes<std::byte>(matrix.inputs_padded() * kLanes * width) +
           Pieces::bytes<int8_t>(width == 2 ? 2 * rows * matrix.inputs_padded() : 0);
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
    const int64_t width = unsigned_codes() ? 1 : kLooseBytes;
    loose_codes_ = pieces.take<std::byte>(matrix.inputs_padded() * kLanes * width);
#if defined(SLIPSTREAM_ISA_AVX2)
    if (wide()) widen_rows(pieces.take<int8_t>(2 * row_count_ * matrix.inputs_padded()));
#endif
  }

  // All rows of the chunk × one panel; row r of the chunk goes to row r of `out`.
  void panel(int64_t index, const PanelOutput& out) const {
    const Panel packed = panel_of(matrix_, index);
    const Ahead ahead = ahead_of(packed);
    if (reads_packed()) return direct(widened(packed), out, ahead);
    Panel loose = widened(packed);
    loose.codes = unpack_codes(packed.codes);
    Range rows = all();
#if defined(SLIPSTREAM_ISA_AVX2)
    if (wide()) return integer_rows<WideCodes>(loose, merging_, rows_, rows, out, ahead);
#endif
#if defined(SLIPSTREAM_ISA_AMX)
    rows.begin = tile_rows(loose, merging_, rows_, unsigned_codes(), row_count_, out);
#endif
    if (!unsigned_codes())
      return integer_rows<SignedCodes>(loose, merging_, rows_, rows, out, ahead);
    if (bits_of_code(matrix_.format().codes) > 4)
      return integer_rows<LooseWide>(loose, merging_, rows_, rows, out, ahead);
    integer_rows<LooseNibbles>(loose, merging_, rows_, rows, out, ahead);
  }

 private:
  // Few rows read the packed codes.
  void direct(const Panel& packed, const PanelOutput& out, const Ahead& ahead) const {
    switch (matrix_.format().codes) {
      case CodeFormat::int8:
        return direct_rows<SignedCodes>(packed, out, ahead);
      case CodeFormat::int4:
        return direct_rows<PackedNibbles>(packed, out, ahead);
      case CodeFormat::int2:
        return direct_rows<Packed2>(packed, out, ahead);
      case CodeFormat::int3:
        return direct_rows<Packed3>(packed, out, ahead);
      case CodeFormat::int5:
        return direct_rows<Packed5>(packed, out, ahead);
      case CodeFormat::int6:
        return direct_rows<Packed6>(packed, out, ahead);
      case CodeFormat::nf4:
        return direct_rows<PackedLevels<Nf4>>(packed, out, ahead);
      case CodeFormat::iq4_nl:
        return direct_rows<PackedLevels<Iq4>>(packed, out, ahead);
      case CodeFormat::mxfp4:
        return direct_rows<PackedLevels<E2m1>>(packed, out, ahead);
      case CodeFormat::int8_2of4:
        return sparse_rows<Sparse8>(packed, merging_, rows_, all(), out, ahead);
      case CodeFormat::int4_2of4:
        return sparse_rows<Sparse4>(packed, merging_, rows_, all(), out, ahead);
      case CodeFormat::int8_masked:
      case CodeFormat::int4_masked:
        return with_masked(matrix_.format(), packed.codes, [&](const auto& reader) {
          masked_rows(packed, reader, merging_, rows_, row_count_, out, ahead);
        });
      default:
        __builtin_unreachable();  // merge_group refuses dense matrices
    }
  }

  template <class Codes>
  void direct_rows(const Panel& packed, const PanelOutput& out, const Ahead& ahead) const {
    integer_rows<Codes>(packed, merging_, rows_, all(), out, ahead);
  }

  // One tile asks for memory a set distance ahead. The tiles of more rows share the next panel, so
  // that it arrives while they compute, whatever they read: 8 to 32 rows wait for no memory then.
  Ahead ahead_of(const Panel& packed) const {
    if (choice_.prefetch_bytes == 0) return {};
    const auto bytes = int64_t(matrix_.panel_bytes());
    const int64_t tiles = (row_count_ - 1) / kTileRows + 1;
    if (tiles == 1) return {packed.codes + choice_.prefetch_bytes, bytes / merging_.groups};
    return {packed.codes + bytes, (bytes - 1) / (merging_.groups * tiles) + 1};
  }

  bool unsigned_codes() const { return !has_signed_codes(matrix_.format().codes); }

#if defined(SLIPSTREAM_ISA_AVX2)
  // Whether int8 codes and the rows are widened to 16 bits; see words_avx2.h.
  bool wide() const { return !reads_packed() && !unsigned_codes(); }

  void widen_rows(int8_t* out) {
    for (int64_t row = 0; row < row_count_; ++row)
      widen_row(rows_.codes + row * rows_.stride, merging_.inputs_padded,
                out + 2 * row * merging_.inputs_padded);
    rows_.codes = out;
    rows_.stride = 2 * merging_.inputs_padded;
  }
#endif

  static Merging merging_of(const ActivationBlock& x, const PackedMatrix& matrix) {
    const int64_t merged = smaller(x.group, matrix.format().group);
    const int64_t inputs = merged == x.inputs ? matrix.inputs_padded() : merged;
    return {inputs, matrix.inputs_padded(), (x.inputs - 1) / inputs + 1,
            (matrix.format().group - 1) / inputs + 1};
  }

  Range all() const { return {0, row_count_}; }
  bool reads_packed() const {
    const int64_t most = direct_rows_most(matrix_.format().codes);
    return row_count_ <= smaller(choice_.direct_rows, most);
  }

  // What the integer sums hold beyond Σ a·q: (zero + offset) · Σa.
  int32_t sum_excess() const {
    const MatrixFormat& format = matrix_.format();
    if (has_signed_codes(format.codes)) return kSignedOffset;
    return zero_code(format.codes, format.has_minimums);
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

  // The panel with float32 scales, in scratch where several tiles would convert them.
  Panel widened(const Panel& packed) const {
    if (row_count_ <= kTileRows) return packed;
    return {packed.codes, widened(packed.scales, loose_scales_),
            widened(packed.minimums, loose_minimums_)};
  }

  // One code a byte (or two, see wide()), in scratch where the packed form differs.
  const std::byte* unpack_codes(const std::byte* codes) const {
    switch (matrix_.format().codes) {
      case CodeFormat::int4:
        return loosened<PackedNibbles>(codes);
      case CodeFormat::int2:
        return loosened<Packed2>(codes);
      case CodeFormat::int3:
        return loosened<Packed3>(codes);
      case CodeFormat::int5:
        return loosened<Packed5>(codes);
      case CodeFormat::int6:
        return loosened<Packed6>(codes);
      case CodeFormat::nf4:
        return loosened<PackedLevels<Nf4>>(codes);
      case CodeFormat::iq4_nl:
        return loosened<PackedLevels<Iq4>>(codes);
      case CodeFormat::mxfp4:
        return loosened<PackedLevels<E2m1>>(codes);
      case CodeFormat::int8_2of4:
        return loosened<Sparse8>(codes);
      case CodeFormat::int4_2of4:
        return loosened<Sparse4>(codes);
      case CodeFormat::int8_masked:
      case CodeFormat::int4_masked:
        with_masked(matrix_.format(), codes, [&](auto reader) {
          each_step(reader, matrix_.inputs_padded(), choice_.prefetch_bytes,
                    [&](int64_t step, const Bytes& b) { store_loose(step, b); });
        });
        return loose_codes_;
      default:
#if defined(SLIPSTREAM_ISA_AVX2)
        if (wide()) return loosened<SignedCodes>(codes);
#endif
        return codes;
    }
  }

  template <class Codes>
  const std::byte* loosened(const std::byte* codes) const {
    for (int64_t k = 0; k < matrix_.inputs_padded(); k += 4 * kStepInputs) {
      const std::byte* unit = codes + k / kStepInputs * Codes::step_bytes;
      prefetch(unit + choice_.prefetch_bytes, 4 * Codes::step_bytes);
      SLIPSTREAM_UNROLL(4)
      for (int64_t s = 0; s < 4; ++s) store_loose(k / kStepInputs + s, Codes::step(unit, s));
    }
    return loose_codes_;
  }

  SLIPSTREAM_INLINE void store_loose(int64_t step, const Bytes& codes) const {
#if defined(SLIPSTREAM_ISA_AVX2)
    if (wide()) return store_words(loose_codes_ + step * 128, codes);
#endif
    store_bytes(loose_codes_ + step * 64, codes);
  }

  Scales widened(const Scales& scales, float* out) const {
    if (scales.data == nullptr || scales.format == ScaleFormat::f32) return scales;
    for (int64_t g = 0; g < matrix_.groups(); ++g) store(out + g * kLanes, load_scales(scales, g));
    return {reinterpret_cast<const std::byte*>(out), ScaleFormat::f32, nullptr, 0};
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
