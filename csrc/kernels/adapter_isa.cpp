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

// N rows of A against x, side by side: one chain of fma would wait for itself.
template <class Format, int N>
SLIPSTREAM_INLINE void shrink_rows(const typename Format::Element* a, int64_t stride,
                                   int64_t inputs, const float* x, float scale, float* t) {
  f32x16 sums[N];
  for (int j = 0; j < N; ++j) sums[j] = zero_f32();
  int64_t k = 0;
  for (; k + kLanes <= inputs; k += kLanes) {
    const f32x16 value = load(x + k);
    SLIPSTREAM_UNROLL(4)
    for (int j = 0; j < N; ++j) sums[j] = fma(Format::lanes(a + j * stride + k), value, sums[j]);
  }
  if (k < inputs) {
    const f32x16 value = load(x + k, int(inputs - k));
    for (int j = 0; j < N; ++j) sums[j] = fma(Format::lanes(a + j * stride + k), value, sums[j]);
  }
  for (int j = 0; j < N; ++j) t[j] = sum(sums[j]) * scale;
}

template <class Format>
void shrink_as(const LowRank& adapter, const float* x, float* t) {
  const auto* a = reinterpret_cast<const typename Format::Element*>(adapter.down.data());
  const int64_t inputs = adapter.inputs, stride = adapter.inputs_padded();
  int64_t j = 0;
  for (; j + 4 <= adapter.rank; j += 4)
    shrink_rows<Format, 4>(a + j * stride, stride, inputs, x, adapter.scale, t + j);
  for (; j < adapter.rank; ++j)
    shrink_rows<Format, 1>(a + j * stride, stride, inputs, x, adapter.scale, t + j);
}

// N panels side by side.
template <class Format, int N>
SLIPSTREAM_INLINE void expand_panels(const typename Format::Element* b, int64_t rank,
                                     const float* t, float* y, int lanes) {
  const int64_t panel = rank * kLanes;
  f32x16 sums[N];
  for (int p = 0; p < N; ++p) sums[p] = zero_f32();
  for (int64_t j = 0; j < rank; ++j) {
    const f32x16 value = set1(t[j]);
    SLIPSTREAM_UNROLL(4)
    for (int p = 0; p < N; ++p)
      sums[p] = fma(Format::lanes(b + p * panel + j * kLanes), value, sums[p]);
  }
  for (int p = 0; p < N; ++p) {
    float* out = y + p * kLanes;
    store_chunk(out, load_chunk(out, lanes) + sums[p], lanes);
  }
}

template <class Format>
void expand_as(const LowRank& adapter, const float* t, float* y, Range panels) {
  const auto* b = reinterpret_cast<const typename Format::Element*>(adapter.up.data());
  const int64_t rank = adapter.rank, stride = rank * kLanes;
  const int64_t whole = adapter.outputs / kLanes;  // panels without padding
  int64_t p = panels.begin;
  for (; p + 4 <= panels.end && p + 4 <= whole; p += 4)
    expand_panels<Format, 4>(b + p * stride, rank, t, y + p * kLanes, kLanes);
  for (; p < panels.end; ++p) {
    const int lanes = p < whole ? kLanes : int(adapter.outputs - p * kLanes);
    expand_panels<Format, 1>(b + p * stride, rank, t, y + p * kLanes, lanes);
  }
}

void shrink(const LowRank& adapter, const float* x, float* t) {
  if (adapter.format == CodeFormat::f32) return shrink_as<F32>(adapter, x, t);
  if (adapter.format == CodeFormat::f16) return shrink_as<F16>(adapter, x, t);
  shrink_as<Bf16>(adapter, x, t);
}

void expand(const LowRank& adapter, const float* t, float* y, Range panels) {
  if (adapter.format == CodeFormat::f32) return expand_as<F32>(adapter, t, y, panels);
  if (adapter.format == CodeFormat::f16) return expand_as<F16>(adapter, t, y, panels);
  expand_as<Bf16>(adapter, t, y, panels);
}

}  // namespace

extern const AdapterKernels adapter_table = {shrink, expand};

}  // namespace slipstream::SLIPSTREAM_ISA
