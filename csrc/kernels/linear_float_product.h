// One packed matrix of any format against float32 rows: picks direct or blocked, compiled per
// instruction set.
#pragma once

#include "kernels/linear_float.h"
#include "kernels/linear_masked.h"
#include "kernels/linear_sparse.h"

namespace slipstream::SLIPSTREAM_ISA {

class FloatProduct {
 public:
  static constexpr int64_t kDirectRows = 4;

  static int64_t bytes(int64_t rows) {
    return Pieces::bytes<float>(rows * kLanes) + Pieces::bytes<float>(kBlockInputs * kLanes);
  }

  FloatProduct(const FloatRows& x, const PackedMatrix& matrix, int64_t rows, std::byte* memory)
      : matrix_(matrix), x_(x), row_count_(rows) {
    Pieces pieces(memory);
    sums_ = pieces.take<float>(rows * kLanes);
    block_ = pieces.take<float>(kBlockInputs * kLanes);
  }

  // How many panels, of `left`, one call of panels() takes.
  int64_t panels_at_once(int64_t left) const {
    return row_count_ <= 2 && left >= 2 && matrix_.format().codes <= CodeFormat::int4 ? 2 : 1;
  }

  // All rows × `count` panels from `index` on; panel p goes to outs[p].
  void panels(int64_t index, int64_t count, const PanelOutput* outs) const {
    switch (matrix_.format().codes) {
      case CodeFormat::f32:
        return panels_of<DecodeF32>(index, count, outs);
      case CodeFormat::f16:
        return panels_of<DecodeF16>(index, count, outs);
      case CodeFormat::bf16:
        return panels_of<DecodeBf16>(index, count, outs);
      case CodeFormat::int8:
        return panels_of<DecodeInt8>(index, count, outs);
      case CodeFormat::int4:
        return panels_of<DecodeInt4>(index, count, outs);
      case CodeFormat::int2:
        return blocked<DecodeUnit<Packed2>>(index, outs[0]);
      case CodeFormat::int3:
        return blocked<DecodeUnit<Packed3>>(index, outs[0]);
      case CodeFormat::int5:
        return blocked<DecodeUnit<Packed5>>(index, outs[0]);
      case CodeFormat::int6:
        return blocked<DecodeUnit<Packed6>>(index, outs[0]);
      case CodeFormat::nf4:
        return blocked<DecodeUnit<PackedLevels<Nf4>>>(index, outs[0]);
      case CodeFormat::iq4_nl:
        return blocked<DecodeUnit<PackedLevels<Iq4>>>(index, outs[0]);
      case CodeFormat::mxfp4:
        return blocked<DecodeUnit<PackedLevels<E2m1>>>(index, outs[0]);
      case CodeFormat::int8_2of4:
        return blocked<DecodeUnit<Sparse8>>(index, outs[0]);
      case CodeFormat::int4_2of4:
        return blocked<DecodeUnit<Sparse4>>(index, outs[0]);
      case CodeFormat::int8_masked:
      case CodeFormat::int4_masked:
        return with_masked(matrix_.format(), matrix_.codes(index),
                           [&](auto reader) { masked(index, reader, outs[0]); });
    }
  }

  void panel(int64_t index, const PanelOutput& out) const { panels(index, 1, &out); }

 private:
  template <class Decode>
  void panels_of(int64_t index, int64_t count, const PanelOutput* outs) const {
    if (row_count_ > kDirectRows) return blocked<Decode>(index, outs[0]);
    if (count == 2)
      return row_count_ == 2 ? direct_tile<Decode, 2, 2>(matrix_, index, x_, outs)
                             : direct_tile<Decode, 1, 2>(matrix_, index, x_, outs);
    switch (row_count_) {
      case 4:
        return direct_tile<Decode, 4, 1>(matrix_, index, x_, outs);
      case 3:
        return direct_tile<Decode, 3, 1>(matrix_, index, x_, outs);
      case 2:
        return direct_tile<Decode, 2, 1>(matrix_, index, x_, outs);
      case 1:
        return direct_tile<Decode, 1, 1>(matrix_, index, x_, outs);
    }
  }

  template <class Decode>
  void blocked(int64_t index, const PanelOutput& out) const {
    const Panel panel = panel_of(matrix_, index);
    const MatrixFormat& format = matrix_.format();
    for (int64_t i = 0; i < row_count_; ++i) store(sums_ + i * kLanes, zero_f32());
    for (int64_t k = 0; k < matrix_.inputs(); k += kBlockInputs) {
      const int64_t end = smaller(k + kBlockInputs, matrix_.inputs());
      const float* weights = block_;
      if (format.codes == CodeFormat::f32)
        weights = reinterpret_cast<const float*>(panel.codes) + k * kLanes;
      else
        decode_block<Decode>(panel, format.group, format.dense(), k, end, block_);
      float_rows(weights, end - k, x_, k, row_count_, sums_);
    }
    for (int64_t i = 0; i < row_count_; ++i) store_output(out, i, load(sums_ + i * kLanes));
  }

  template <class Codes>
  void masked(int64_t index, Codes& codes, const PanelOutput& out) const {
    const Panel panel = panel_of(matrix_, index);
    for (int64_t i = 0; i < row_count_; ++i) store(sums_ + i * kLanes, zero_f32());
    for (int64_t k = 0; k < matrix_.inputs(); k += kBlockInputs) {
      const int64_t end = smaller(k + kBlockInputs, matrix_.inputs());
      decode_masked(panel, codes, matrix_.format().group, k, end, block_);
      float_rows(block_, end - k, x_, k, row_count_, sums_);
    }
    for (int64_t i = 0; i < row_count_; ++i) store_output(out, i, load(sums_ + i * kLanes));
  }

  const PackedMatrix& matrix_;
  FloatRows x_;
  int64_t row_count_;
  float* sums_ = nullptr;
  float* block_ = nullptr;
};

}  // namespace slipstream::SLIPSTREAM_ISA
