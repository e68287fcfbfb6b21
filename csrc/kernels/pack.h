// A weight matrix in the layout the kernels read. Made once when a model is loaded, from the
// canonical arrays of formats/tensor.py; one layout for every instruction set.
//
// A panel is 16 outputs (the lanes) × all inputs, and one contiguous piece of memory:
//
//   | codes                      | scales [groups][16] | minimums [groups][16] |   next panel …
//
//   codes, 64 bytes at a time (o = lane, k = input):
//     f32   1 input    [o]                       int8  4 inputs   [o][4]
//     f16   2 inputs   [2][o]                    int4  8 inputs   [o][4]: low nibbles are the first
//     bf16  2 inputs   [o][2]                                     four inputs, high the next four
//   codebooks lie as int4. The other widths are planes of 1, 2 and 4 bits, 16 inputs at a time:
//     int2  64 bytes   [o][4]: bits 2s and 2s + 1 are input 4s + i
//     int3  int2, then 32 bytes of third bits: bit s of byte [o][4] for o < 8, bit 4 + s for o - 8
//     int5  twice int4, then 32 bytes of fifth bits, as int3's third
//     int6  twice int4, then the upper two bits as int2
//   2 of 4: of each four inputs the two codes that may differ from zero, 16 inputs at a time:
//     int8  two octets [o][4], codes 0 and 1 of the first four inputs, 2 and 3 of the next, then
//           32 bytes of places, two bits each: isa/chosen.h. int4: the octets as nibbles of one
//   masked: 16 inputs at a time too, but as many bytes as they need: for each four inputs 8 bytes,
//           bit 4·o + i saying that [o][i] is not zero; then for each four inputs such codes back
//           to back, [o][i] in turn; int4: as nibbles -8 … 7, low first, up to a whole byte. All
//           panels are as long as the fullest, so that each begins at a known place.
//   nested scales are int8 [groups][16], then f16 [supers][16]; minimums likewise.
//
// Outputs are padded to 16 and inputs to 64, with zero codes; padded outputs have zero scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "isa/inline.h"
#include "isa/memory.h"
#include "kernels/codes.h"

namespace slipstream {

constexpr int kPackedLayout = 3;  // raise it when what lies in a panel changes: files hold panels
constexpr int64_t kPanelOutputs = 16;
constexpr int64_t kInputPadding = 64;
constexpr int64_t kMaskedTail = 384;  // bytes after the last masked panel, which readers may touch

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// e8m0 is a byte e for 2^(e - 128). nested: an int8 for each group, times an f16 for each
// super-group.
enum class ScaleFormat { f16, f32, e8m0, nested };

// How a packed matrix is stored. `group` is the inputs that share a scale: a multiple of 16 that
// divides the inputs, or the inputs themselves (one scale a row). Dense formats have group 0.
struct MatrixFormat {
  CodeFormat codes = CodeFormat::f32;
  int64_t group = 0;
  ScaleFormat scales = ScaleFormat::f32;
  bool has_minimums = false;
  ScaleFormat minimums = ScaleFormat::f32;
  int64_t supers = 0;      // super-groups of a row where scales (and minimums) are nested
  int64_t code_bytes = 0;  // of a panel of masked codes, a multiple of 64

  SLIPSTREAM_INLINE bool dense() const { return codes < CodeFormat::int8; }
};

// What an affine matrix adds: nothing, a float minimum, or an integer zero point.
enum class OffsetFormat { none, minimum_f16, minimum_f32, zero_u8, zero_i8, minimum_nested };

// Which zeros of a matrix are left out when it is packed.
enum class Sparsity { none, two_of_four, masked };

// The canonical arrays of one matrix, row-major and contiguous; borrowed. G = inputs / group.
struct SourceMatrix {
  int64_t outputs = 0;
  int64_t inputs = 0;
  CodeFormat code_format = CodeFormat::f32;
  // dense [O, I] · int8 [O, I] for more than 4 bits · uint8 [O, I / 2], low nibble first; codes of
  // 2 and 3 bits are counted as those of 4, symmetric ones of 5 and 6 from -16 and -32.
  const void* codes = nullptr;
  int64_t group = 0;  // 0 for dense
  ScaleFormat scale_format = ScaleFormat::f32;
  const void* scales = nullptr;  // [O, G]
  OffsetFormat offset_format = OffsetFormat::none;
  const void* offsets = nullptr;             // [O, G]
  int64_t super_count = 0;                   // of a row, where scales are nested
  const uint16_t* supers = nullptr;          // f16 [O, super_count]
  const uint16_t* minimum_supers = nullptr;  // likewise, for minimum_nested
  Sparsity sparsity = Sparsity::none;        // see pack_sparse.h and pack_masked.h
  int64_t code_bytes = 0;                    // masked: what the fullest panel needs; 0: to be found
};

class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Zeroed memory of the right size, from `arena` if there is one; std::invalid_argument for a
  // format that has no kernel.
  PackedMatrix(const MatrixFormat& format, int64_t outputs, int64_t inputs, Arena* arena = nullptr);
  // A view of panels that were packed before, as a file holds them; `owner` keeps them alive. They
  // must begin on a cache line and be size_bytes() long; std::invalid_argument if they are not.
  PackedMatrix(const MatrixFormat& format, int64_t outputs, int64_t inputs,
               std::shared_ptr<const void> owner, const std::byte* panels, std::size_t size);

  SLIPSTREAM_INLINE const MatrixFormat& format() const { return format_; }
  SLIPSTREAM_INLINE int64_t outputs() const { return outputs_; }
  SLIPSTREAM_INLINE int64_t inputs() const { return inputs_; }
  SLIPSTREAM_INLINE int64_t inputs_padded() const {
    return (inputs_ + kInputPadding - 1) / kInputPadding * kInputPadding;
  }
  SLIPSTREAM_INLINE int64_t groups() const { return groups_; }  // scales of one output; 0 for dense
  SLIPSTREAM_INLINE int64_t panels() const {
    return (outputs_ + kPanelOutputs - 1) / kPanelOutputs;
  }
  SLIPSTREAM_INLINE std::size_t panel_bytes() const { return panel_bytes_; }
  SLIPSTREAM_INLINE std::size_t size_bytes() const {
    const std::size_t tail = is_masked(format_.codes) ? std::size_t(kMaskedTail) : 0;
    return panel_bytes_ * std::size_t(panels()) + tail;
  }

  // Only the panels of a matrix that was not packed before may be written.
  SLIPSTREAM_INLINE std::byte* codes(int64_t panel) {
    return panels_ + std::size_t(panel) * panel_bytes_;
  }
  SLIPSTREAM_INLINE const std::byte* codes(int64_t panel) const {
    return panels_ + std::size_t(panel) * panel_bytes_;
  }
  SLIPSTREAM_INLINE const std::byte* scales(int64_t panel) const {
    return codes(panel) + scales_at_;
  }
  // log2 of the groups in a super-group, where scales are nested.
  SLIPSTREAM_INLINE int super_shift() const { return super_shift_; }
  // The super-scales that follow nested scales or minimums, [supers][16] f16.
  SLIPSTREAM_INLINE std::size_t supers_after() const {
    return std::size_t(groups_) * std::size_t(kPanelOutputs);
  }
  SLIPSTREAM_INLINE const std::byte* minimums(int64_t panel) const {
    return codes(panel) + minimums_at_;
  }
  SLIPSTREAM_INLINE std::byte* scales(int64_t panel) { return codes(panel) + scales_at_; }
  SLIPSTREAM_INLINE std::byte* minimums(int64_t panel) { return codes(panel) + minimums_at_; }

 private:
  void lay_out();  // checks format and shape, places the parts of a panel

  MatrixFormat format_;
  int64_t outputs_ = 0;
  int64_t inputs_ = 0;
  int64_t groups_ = 0;
  int super_shift_ = 0;
  std::size_t scales_at_ = 0;
  std::size_t minimums_at_ = 0;
  std::size_t panel_bytes_ = 0;
  std::shared_ptr<const void> owner_;  // of the panels
  std::byte* panels_ = nullptr;
};

// The format that `source` is packed into: its own, with a zero point z turned into the float32
// minimum -scale·z. std::invalid_argument where it shall be sparse and cannot be.
MatrixFormat packed_format(const SourceMatrix& source);

// Fills panels [panels.begin, panels.end) of `packed`, which has packed_format(source). Ranges that
// do not overlap may be filled by different threads at once.
void pack(const SourceMatrix& source, PackedMatrix& packed, Range panels);

// The whole matrix, on this thread.
PackedMatrix pack(const SourceMatrix& source);

}  // namespace slipstream
