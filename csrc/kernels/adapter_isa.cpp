#include "kernels/adapter.h"
#include "kernels/chunks.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

struct F32 {
  using Element = float;
  SLIPSTREAM_INLINE static f32x16 lanes(const float* p) { return load(p); }
};
struct F16 {
  using Element = uint16_t;
  SLIPSTREAM_INLINE static f32x16 lanes(const uint16_t* p) { return load_f16(p); }
};
struct Bf16 {
  using Element = uint16_t;
  SLIPSTREAM_INLINE static f32x16 lanes(const uint16_t* p) { return load_bf16(p); }
};

// How far ahead memory is asked for: adapters are too small for the hardware to notice the stream.
constexpr std::int64_t kAhead = 2048;

// One chunk of a block of A, later.
template <class Element>
SLIPSTREAM_INLINE void prefetch_block(const Element* a) {
  constexpr std::int64_t bytes = kRankBlock * kLanes * std::int64_t(sizeof(Element));
  const auto* p = reinterpret_cast<const char*>(a) + kAhead;
  for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at);
}

// J rows of A, from `j` on within one block, against R rows of x, from `row` on: side by side,
// since one chain of fma would wait for itself, and since decoding A takes longer than multiplying
// by it.
template <class Format, int J, int R>
SLIPSTREAM_INLINE void shrink_tile(const LowRank& adapter, const AdapterRows& rows, int row,
                                   int64_t j) {
  const int64_t inputs = adapter.inputs, block = j / kRankBlock, within = j % kRankBlock;
  const auto* a = reinterpret_cast<const typename Format::Element*>(adapter.down);
  a += block * adapter.chunks() * kRankBlock * kLanes + within * kLanes;
  f32x16 sums[J][R];
  for (int i = 0; i < J; ++i)
    for (int r = 0; r < R; ++r) sums[i][r] = zero_f32();
  for (int64_t k = 0; k < inputs; k += kLanes, a += kRankBlock * kLanes) {
    if (within == 0) prefetch_block(a);
    const int n = chunk_size(int(inputs), int(k));
    f32x16 values[R];
    SLIPSTREAM_UNROLL(4)
    for (int r = 0; r < R; ++r) values[r] = load_chunk(rows.wide[row + r] + k, n);
    SLIPSTREAM_UNROLL(4)
    for (int i = 0; i < J; ++i) {
      const f32x16 weights = Format::lanes(a + i * kLanes);
      SLIPSTREAM_UNROLL(4)
      for (int r = 0; r < R; ++r) sums[i][r] = fma(weights, values[r], sums[i][r]);
    }
  }
  for (int i = 0; i < J && j + i < adapter.rank; ++i)
    for (int r = 0; r < R; ++r) rows.narrow[row + r][j + i] = sum(sums[i][r]) * adapter.scale;
}

template <class Format>
void shrink_as(const LowRank& adapter, const AdapterRows& rows) {
  int row = 0;
  for (; row + 4 <= rows.count; row += 4)
    for (int64_t j = 0; j < adapter.rank; ++j) shrink_tile<Format, 1, 4>(adapter, rows, row, j);
  for (; row < rows.count; ++row)
    for (int64_t j = 0; j < adapter.rank; j += kRankBlock)
      shrink_tile<Format, 4, 1>(adapter, rows, row, j);
}

// P panels of B, from `panel` on, for R rows.
template <class Format, int P, int R>
SLIPSTREAM_INLINE void expand_tile(const LowRank& adapter, const AdapterRows& rows, int row,
                                   int64_t panel) {
  const int64_t stride = adapter.rank * kLanes;
  const auto* b = reinterpret_cast<const typename Format::Element*>(adapter.up);
  b += panel * stride;
  f32x16 sums[P][R];
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) sums[p][r] = zero_f32();
  for (int64_t j = 0; j < adapter.rank; ++j) {
    SLIPSTREAM_UNROLL(4)
    for (int p = 0; p < P; ++p) {
      __builtin_prefetch(reinterpret_cast<const char*>(b + p * stride + j * kLanes) + kAhead);
      const f32x16 weights = Format::lanes(b + p * stride + j * kLanes);
      SLIPSTREAM_UNROLL(4)
      for (int r = 0; r < R; ++r)
        sums[p][r] = fma(weights, set1(rows.narrow[row + r][j]), sums[p][r]);
    }
  }
  for (int p = 0; p < P; ++p) {
    const int64_t output = (panel + p) * kLanes;
    const int lanes = chunk_size(int(adapter.outputs), int(output));
    for (int r = 0; r < R; ++r) {
      float* out = rows.out[row + r] + output;
      store_chunk(out, load_chunk(out, lanes) + sums[p][r], lanes);
    }
  }
}

template <class Format>
void expand_as(const LowRank& adapter, const AdapterRows& rows, Range panels) {
  int row = 0;
  for (; row + 4 <= rows.count; row += 4)
    for (int64_t p = panels.begin; p < panels.end; ++p)
      expand_tile<Format, 1, 4>(adapter, rows, row, p);
  for (; row < rows.count; ++row) {
    int64_t p = panels.begin;
    for (; p + 4 <= panels.end; p += 4) expand_tile<Format, 4, 1>(adapter, rows, row, p);
    for (; p < panels.end; ++p) expand_tile<Format, 1, 1>(adapter, rows, row, p);
  }
}

void shrink(const LowRank& adapter, const AdapterRows& rows) {
  if (adapter.format == CodeFormat::f32) return shrink_as<F32>(adapter, rows);
  if (adapter.format == CodeFormat::f16) return shrink_as<F16>(adapter, rows);
  shrink_as<Bf16>(adapter, rows);
}

void expand(const LowRank& adapter, const AdapterRows& rows, Range panels) {
  if (adapter.format == CodeFormat::f32) return expand_as<F32>(adapter, rows, panels);
  if (adapter.format == CodeFormat::f16) return expand_as<F16>(adapter, rows, panels);
  expand_as<Bf16>(adapter, rows, panels);
}

}  // namespace

extern const AdapterKernels adapter_table = {shrink, expand};

}  // namespace slipstream::SLIPSTREAM_ISA
