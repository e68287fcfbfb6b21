// float32 rows × weights of any format, compiled per instruction set: one fma chain per output, in
// ascending order of inputs.
//
// Up to four rows decode the packed panel in registers, two panels at a time for one or two rows,
// so that enough chains run side by side. More rows read the panel as float32 from scratch, a block
// of inputs at a time.
#pragma once

#include "kernels/linear_codes.h"
#include "kernels/linear_panel.h"

namespace slipstream::SLIPSTREAM_ISA {

// What a group of an affine matrix adds to its codes; dense formats ignore it.
struct GroupScale {
  f32x16 scale, minimum;
  bool has_minimum;
};

template <int zero>
SLIPSTREAM_INLINE f32x16 affine(i32x16 code, const GroupScale& group) {
  const f32x16 q = to_f32(code);
  if (group.has_minimum) return fma(group.scale, q, group.minimum);
  return group.scale * (zero == 0 ? q : q - set1(float(zero)));
}

// The inputs that `bytes` of codes hold, as float32: decode(p, group, w[inputs]).
struct DecodeF32 {
  static constexpr int inputs = 1;
  static constexpr int bytes = 64;
  SLIPSTREAM_INLINE static void decode(const std::byte* p, const GroupScale&, f32x16* w) {
    w[0] = load(reinterpret_cast<const float*>(p));
  }
};
struct DecodeF16 {
  static constexpr int inputs = 2;
  static constexpr int bytes = 64;
  SLIPSTREAM_INLINE static void decode(const std::byte* p, const GroupScale&, f32x16* w) {
    w[0] = load_f16(reinterpret_cast<const uint16_t*>(p));
    w[1] = load_f16(reinterpret_cast<const uint16_t*>(p) + kLanes);
  }
};
struct DecodeBf16 {
  static constexpr int inputs = 2;
  static constexpr int bytes = 64;
  SLIPSTREAM_INLINE static void decode(const std::byte* p, const GroupScale&, f32x16* w) {
    const i32x16 pairs = load_i32(reinterpret_cast<const int32_t*>(p));
    w[0] = as_f32(shift_left<16>(pairs));
    w[1] = as_f32(pairs & set1_i32(int32_t(0xffff0000)));
  }
};
struct DecodeInt8 {
  static constexpr int inputs = 4;
  static constexpr int bytes = 64;
  SLIPSTREAM_INLINE static void decode(const std::byte* p, const GroupScale& group, f32x16* w) {
    const i32x16 fours = load_i32(reinterpret_cast<const int32_t*>(p));
    w[0] = affine<0>(shift_right<24>(shift_left<24>(fours)), group);
    w[1] = affine<0>(shift_right<24>(shift_left<16>(fours)), group);
    w[2] = affine<0>(shift_right<24>(shift_left<8>(fours)), group);
    w[3] = affine<0>(shift_right<24>(fours), group);
  }
};
struct DecodeInt4 {
  static constexpr int inputs = 8;
  static constexpr int bytes = 64;
  SLIPSTREAM_INLINE static void decode(const std::byte* p, const GroupScale& group, f32x16* w) {
    const i32x16 eights = load_i32(reinterpret_cast<const int32_t*>(p));
    const i32x16 mask = set1_i32(15);
    w[0] = affine<8>(eights & mask, group);
    w[1] = affine<8>(shift_right<8>(eights) & mask, group);
    w[2] = affine<8>(shift_right<16>(eights) & mask, group);
    w[3] = affine<8>(shift_right<24>(eights) & mask, group);
    w[4] = affine<8>(shift_right<4>(eights) & mask, group);
    w[5] = affine<8>(shift_right<12>(eights) & mask, group);
    w[6] = affine<8>(shift_right<20>(eights) & mask, group);
    w[7] = affine<8>(shift_right<28>(eights) & mask, group);
  }
};

// Codes as linear_codes.h lays them, 16 inputs at a time.
template <class Codes>
struct DecodeUnit {
  static constexpr int inputs = 16;
  static constexpr int bytes = 4 * Codes::step_bytes;
  static constexpr int zero = Codes::nibbles ? 1 << (Codes::bits - 1) : 0;
  SLIPSTREAM_INLINE static f32x16 value(i32x16 fours, int i, const GroupScale& group) {
    if constexpr (Codes::nibbles) {
      const i32x16 byte = set1_i32(255);
      if (i == 0) return affine<zero>(fours & byte, group);
      if (i == 1) return affine<zero>(shift_right<8>(fours) & byte, group);
      return affine<zero>((i == 2 ? shift_right<16>(fours) : shift_right<24>(fours)) & byte, group);
    } else {
      if (i == 0) return affine<0>(shift_right<24>(shift_left<24>(fours)), group);
      if (i == 1) return affine<0>(shift_right<24>(shift_left<16>(fours)), group);
      return affine<0>(shift_right<24>(i == 2 ? shift_left<8>(fours) : fours), group);
    }
  }
  SLIPSTREAM_INLINE static void decode(const std::byte* p, const GroupScale& group, f32x16* w) {
    for (int s = 0; s < 4; ++s) {
      const i32x16 fours = as_i32(Codes::step(p, s));
      for (int i = 0; i < 4; ++i) w[4 * s + i] = value(fours, i, group);
    }
  }
};

SLIPSTREAM_INLINE GroupScale group_scale(const Panel& panel, int64_t group) {
  GroupScale out{load_scales(panel.scales, group), zero_f32(), panel.minimums.data != nullptr};
  if (out.has_minimum) out.minimum = load_scales(panel.minimums, group);
  return out;
}

struct FloatRows {
  const float* values;
  int64_t stride;
};

// R rows × P panels, decoded in registers. `panel_stride` is from one panel to the next.
template <class Decode, int R, int P>
struct DirectTile {
  f32x16 sums[R][P];

  // Inputs [begin, end) of one group of scales; whole decodes, then what is left.
  SLIPSTREAM_INLINE void add_group(const Panel* panels, const GroupScale* groups,
                                   const FloatRows& x, int64_t begin, int64_t end) {
    constexpr int n = Decode::inputs;
    int64_t k = begin;
    for (; k + n <= end; k += n) {
      f32x16 w[P][n];
      SLIPSTREAM_UNROLL(2)
      for (int p = 0; p < P; ++p) Decode::decode(panels[p].codes + k / n * 64, groups[p], w[p]);
      SLIPSTREAM_UNROLL(8)
      for (int i = 0; i < n; ++i) SLIPSTREAM_UNROLL(4)
      for (int r = 0; r < R; ++r) {
        const f32x16 value = set1(x.values[r * x.stride + k + i]);
        SLIPSTREAM_UNROLL(2)
        for (int p = 0; p < P; ++p) sums[r][p] = fma(w[p][i], value, sums[r][p]);
      }
    }
    if (k < end) add_rest(panels, groups, x, k, end);
  }

  void add_rest(const Panel* panels, const GroupScale* groups, const FloatRows& x, int64_t begin,
                int64_t end) {
    for (int p = 0; p < P; ++p) {
      f32x16 w[Decode::inputs];
      Decode::decode(panels[p].codes + begin / Decode::inputs * 64, groups[p], w);
      for (int64_t k = begin; k < end; ++k)
        for (int r = 0; r < R; ++r)
          sums[r][p] = fma(w[k - begin], set1(x.values[r * x.stride + k]), sums[r][p]);
    }
  }
};

template <class Decode, int R, int P>
void direct_tile(const PackedMatrix& matrix, int64_t index, const FloatRows& x,
                 const PanelOutput* outs) {
  DirectTile<Decode, R, P> tile;
  Panel panels[P];
  for (int p = 0; p < P; ++p) {
    panels[p] = panel_of(matrix, index + p);
    for (int r = 0; r < R; ++r) tile.sums[r][p] = zero_f32();
  }
  const int64_t inputs = matrix.inputs();
  // Dense matrices have no groups; cut them where prefetching likes it.
  const bool dense = matrix.format().dense();
  const int64_t group = dense ? 64 : matrix.format().group;
  const int64_t group_count = (inputs + group - 1) / group;
  const int64_t ahead = int64_t(matrix.panel_bytes()) / group_count;
  for (int64_t g = 0; g < group_count; ++g) {
    GroupScale groups[P] = {};
    for (int p = 0; p < P; ++p) {
      prefetch(panels[p].codes + g * ahead + 4096, ahead);
      if (!dense) groups[p] = group_scale(panels[p], g);
    }
    tile.add_group(panels, groups, x, g * group, smaller((g + 1) * group, inputs));
  }
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) store_output(outs[p], r, tile.sums[r][p]);
}

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)
constexpr int kFloatTileRows = 12;
#else
constexpr int kFloatTileRows = 6;  // 6 × 2 accumulators, 2 weights, 1 value: 15 registers
#endif

// Inputs of a float32 block in scratch: 256 · 64 bytes fit the nearest cache beside the rows.
constexpr int64_t kBlockInputs = 256;

// sums [R][16] gain rows · weights [inputs][16].
template <int R>
void float_tile(const float* weights, int64_t inputs, const float* rows, int64_t stride,
                float* sums) {
  f32x16 sum[R];
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < R; ++r) sum[r] = load(sums + r * kLanes);
  for (int64_t k = 0; k < inputs; ++k) {
    const f32x16 w = load(weights + k * kLanes);
    SLIPSTREAM_UNROLL(16)
    for (int r = 0; r < R; ++r) sum[r] = fma(w, set1(rows[r * stride + k]), sum[r]);
  }
  SLIPSTREAM_UNROLL(16)
  for (int r = 0; r < R; ++r) store(sums + r * kLanes, sum[r]);
}

// `count` rows from input k on, in tiles as large as fit.
inline void float_rows(const float* weights, int64_t inputs, const FloatRows& x, int64_t k,
                       int64_t count, float* sums) {
  const float* rows = x.values + k;
  for (; count >= kFloatTileRows; count -= kFloatTileRows) {
    float_tile<kFloatTileRows>(weights, inputs, rows, x.stride, sums);
    rows += kFloatTileRows * x.stride;
    sums += kFloatTileRows * kLanes;
  }
  if constexpr (kFloatTileRows > 6)
    if (count >= 6) {
      float_tile<6>(weights, inputs, rows, x.stride, sums);
      rows += 6 * x.stride;
      sums += 6 * kLanes;
      count -= 6;
    }
  switch (count) {
    case 5:
      return float_tile<5>(weights, inputs, rows, x.stride, sums);
    case 4:
      return float_tile<4>(weights, inputs, rows, x.stride, sums);
    case 3:
      return float_tile<3>(weights, inputs, rows, x.stride, sums);
    case 2:
      return float_tile<2>(weights, inputs, rows, x.stride, sums);
    case 1:
      return float_tile<1>(weights, inputs, rows, x.stride, sums);
  }
}

// Inputs [begin, end) of a panel as float32 [input][16]; begin is a multiple of 64, and up to a
// whole decode past the end is written.
template <class Decode>
void decode_block(const Panel& panel, int64_t group, bool dense, int64_t begin, int64_t end,
                  float* out) {
  GroupScale scale{};
  for (int64_t k = begin; k < end; k += Decode::inputs) {
    if (!dense && (k == begin || k % group == 0)) scale = group_scale(panel, k / group);
    f32x16 w[Decode::inputs];
    Decode::decode(panel.codes + k / Decode::inputs * Decode::bytes, scale, w);
    for (int i = 0; i < Decode::inputs; ++i) store(out + (k - begin + i) * kLanes, w[i]);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
