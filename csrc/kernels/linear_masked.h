// int8 rows × weights packed with a bit mask (pack.h), compiled per instruction set: the codes go
// back to their places in registers, and meet the products of the dense kernel. So the bits are
// those of the dense matrix.
//
// Where a unit of 16 inputs begins depends on the masks before it, so panels are read in order, by
// MaskedCodes. A mask that was damaged on disk can lead past the panel's end but not out of the
// matrix: units are held below its end, and kMaskedTail bytes follow the last panel.
#pragma once

#include "isa/expand.h"
#include "kernels/linear_float.h"
#include "kernels/linear_integer.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr int64_t kMaskBytes = 32;  // of a unit: 8 for each of its four steps
static_assert(kMaskBytes + 256 + kExpandBeyond <= kMaskedTail);

template <int code_bits, class By>
struct MaskedCodes {
  static constexpr bool minimums = false;
  static constexpr bool fixed_groups = false;
  static constexpr bool nibbles = code_bits == 4;
  static constexpr int bits = code_bits;
  static constexpr int64_t step_bytes = 0;  // steps differ

  const std::byte* unit;
  const std::byte* end;  // of the panel's codes

  MaskedCodes(const std::byte* codes, int64_t code_bytes) : unit(codes), end(codes + code_bytes) {}

  // The four steps of the next 16 inputs.
  SLIPSTREAM_INLINE void next(Bytes (&steps)[4]) {
    uint64_t masks[4];
    std::memcpy(masks, unit, kMaskBytes);
    const std::byte* kept = unit + kMaskBytes;
    if constexpr (!nibbles)
      kept = next_bytes(kept, masks, steps);
    else if constexpr (By::nibbles)
      kept = next_nibbles(kept, masks, steps);
    else
      kept = next_widened(kept, masks, steps);
    unit = kept < end ? kept : end;
  }

 private:
  SLIPSTREAM_INLINE static const std::byte* next_bytes(const std::byte* kept,
                                                       const uint64_t (&masks)[4],
                                                       Bytes (&steps)[4]) {
    SLIPSTREAM_UNROLL(4)
    for (int s = 0; s < 4; ++s) {
      steps[s] = By::expand(kept, masks[s]);
      kept += __builtin_popcountll(masks[s]);
    }
    return kept;
  }
  SLIPSTREAM_INLINE static const std::byte* next_nibbles(const std::byte* kept,
                                                         const uint64_t (&masks)[4],
                                                         Bytes (&steps)[4]) {
    SLIPSTREAM_UNROLL(4)
    for (int s = 0; s < 4; ++s) {
      steps[s] = from_zero(By::expand_nibbles(kept, masks[s]));
      kept += (__builtin_popcountll(masks[s]) + 1) / 2;
    }
    return kept;
  }
  // Tables choose bytes: the nibbles of the unit are widened to bytes in memory first.
  SLIPSTREAM_INLINE static const std::byte* next_widened(const std::byte* kept,
                                                         const uint64_t (&masks)[4],
                                                         Bytes (&steps)[4]) {
    alignas(64) std::byte wide[256 + kExpandBeyond];
    int64_t begin[5] = {0, 0, 0, 0, 0};
    SLIPSTREAM_UNROLL(4)
    for (int s = 0; s < 4; ++s) begin[s + 1] = begin[s] + (__builtin_popcountll(masks[s]) + 1) / 2;
    widen_nibbles(kept, begin[4], wide);
    SLIPSTREAM_UNROLL(4)
    for (int s = 0; s < 4; ++s) steps[s] = from_zero(By::expand(wide + 2 * begin[s], masks[s]));
    return kept + begin[4];
  }
};

// dot[r] gains 16 inputs of row r.
template <class Codes, int R>
SLIPSTREAM_INLINE void add_unit(const Bytes (&steps)[4], const int8_t* rows, int64_t stride,
                                i32x16 (&dot)[R]) {
  if constexpr (Codes::nibbles) {
    NibbleSum sums[R];
    SLIPSTREAM_UNROLL(4)
    for (int s = 0; s < 4; ++s) {
      SLIPSTREAM_UNROLL(4)
      for (int r = 0; r < R; ++r) {
        const Quad a = load_quad(rows + r * stride + s * kStepInputs);
        sums[r] = s == 0 ? start(steps[s], a) : add(sums[r], steps[s], a);
      }
    }
    SLIPSTREAM_UNROLL(4)
    for (int r = 0; r < R; ++r) dot[r] = dot[r] + widen(sums[r]);
  } else {
    SLIPSTREAM_UNROLL(4)
    for (int s = 0; s < 4; ++s) {
      const SignedBytes w = signed_bytes(steps[s]);
      SLIPSTREAM_UNROLL(4)
      for (int r = 0; r < R; ++r)
        dot[r] = add(dot[r], w, load_quad(rows + r * stride + s * kStepInputs));
    }
  }
}

// The tile of linear_integer.h: rows [first, first + R) of `x` against one panel.
template <class Codes, int R>
void masked_tile(const Panel& panel, Codes codes, const Merging& merging, const IntegerRows& x,
                 int64_t first, const PanelOutput& out, const Ahead& ahead) {
  const int8_t* rows = x.codes + first * x.stride;
  f32x16 sums[R];
  SLIPSTREAM_UNROLL(4)
  for (int r = 0; r < R; ++r) sums[r] = zero_f32();
  int64_t weight_group = 0, weight_left = merging.weight_ratio;
  for (int64_t g = 0; g < merging.groups; ++g) {
    if (ahead.bytes) prefetch(ahead.next + g * ahead.bytes, ahead.bytes);
    const int64_t inputs = smaller(merging.inputs, merging.inputs_padded - g * merging.inputs);
    i32x16 dot[R];
    SLIPSTREAM_UNROLL(4)
    for (int r = 0; r < R; ++r) dot[r] = zero_i32();
    for (int64_t k = 0; k < inputs; k += 4 * kStepInputs, rows += 4 * kStepInputs) {
      Bytes steps[4];
      codes.next(steps);
      add_unit<Codes, R>(steps, rows, x.stride, dot);
    }
    merge_group_of<Kind<Codes, false, 0>, R>(panel, weight_group, x, first * x.groups + g, dot,
                                             sums);
    if (--weight_left == 0) weight_left = merging.weight_ratio, ++weight_group;
  }
  SLIPSTREAM_UNROLL(4)
  for (int r = 0; r < R; ++r) store_output(out, first + r, sums[r]);
}

// No more rows than these expand the codes in their tile; more share a panel expanded once.
constexpr int64_t kMaskedRows = 4;

template <class Codes>
void masked_rows(const Panel& panel, const Codes& codes, const Merging& merging,
                 const IntegerRows& x, int64_t count, const PanelOutput& out, const Ahead& ahead) {
  switch (count) {
    case 4:
      return masked_tile<Codes, 4>(panel, codes, merging, x, 0, out, ahead);
    case 3:
      return masked_tile<Codes, 3>(panel, codes, merging, x, 0, out, ahead);
    case 2:
      return masked_tile<Codes, 2>(panel, codes, merging, x, 0, out, ahead);
    case 1:
      return masked_tile<Codes, 1>(panel, codes, merging, x, 0, out, ahead);
  }
}

// use(s, codes) for each step of a panel, from the codes' place on; memory is asked for `ahead`.
template <class Codes, class Use>
SLIPSTREAM_INLINE void each_step(Codes& codes, int64_t inputs, int64_t ahead, const Use& use) {
  for (int64_t k = 0; k < inputs; k += 4 * kStepInputs) {
    prefetch(codes.unit + ahead, kMaskBytes + 128);
    Bytes steps[4];
    codes.next(steps);
    SLIPSTREAM_UNROLL(4)
    for (int64_t s = 0; s < 4; ++s) use(k / kStepInputs + s, steps[s]);
  }
}

// The next 16 inputs of a panel as float32, [input][16].
template <class Codes>
SLIPSTREAM_INLINE void decode_unit(Codes& codes, const GroupScale& group, f32x16 (&w)[16]) {
  Bytes steps[4];
  codes.next(steps);
  SLIPSTREAM_UNROLL(4)
  for (int s = 0; s < 4; ++s) {
    SLIPSTREAM_UNROLL(4)
    for (int i = 0; i < 4; ++i) w[4 * s + i] = DecodeUnit<Codes>::value(as_i32(steps[s]), i, group);
  }
}

// Inputs [begin, end) as float32, the codes being at `begin`; see decode_block.
template <class Codes>
void decode_masked(const Panel& panel, Codes& codes, int64_t group, int64_t begin, int64_t end,
                   float* out) {
  GroupScale scale{};
  for (int64_t k = begin; k < end; k += 16) {
    if (k == begin || k % group == 0) scale = group_scale(panel, k / group);
    f32x16 w[16];
    decode_unit(codes, scale, w);
    for (int i = 0; i < 16; ++i) store(out + (k - begin + i) * kLanes, w[i]);
  }
}

// use(codes): the reader of a panel of a masked matrix, of whatever bits, by what this processor
// expands with.
template <class Use>
SLIPSTREAM_INLINE void with_masked(const MatrixFormat& format, const std::byte* codes,
                                   const Use& use) {
  const bool nibbles = format.codes == CodeFormat::int4_masked;
#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)
#if defined(SLIPSTREAM_ISA_AMX)
  constexpr bool expands = true;  // isa.cpp asks for it
#elif defined(SLIPSTREAM_EMULATED)
  constexpr bool expands = false;
#else
  const bool expands = expands_bytes();
#endif
  if (expands) {
    if (nibbles) return use(MaskedCodes<4, ByInstruction>(codes, format.code_bytes));
    return use(MaskedCodes<8, ByInstruction>(codes, format.code_bytes));
  }
#endif
  if (nibbles) return use(MaskedCodes<4, ByTable>(codes, format.code_bytes));
  use(MaskedCodes<8, ByTable>(codes, format.code_bytes));
}

}  // namespace slipstream::SLIPSTREAM_ISA
