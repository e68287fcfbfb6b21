#include "kernels/chunks.h"
#include "kernels/elementwise.h"
#include "kernels/math.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

void add(const float* a, const float* b, float* out, int width) {
  for (int i = 0; i < width; i += 16) {
    const int n = chunk_size(width, i);
    store_chunk(out + i, load_chunk(a + i, n) + load_chunk(b + i, n), n);
  }
}

void scale(float factor, const float* x, float* out, int width) {
  const f32x16 factors = set1(factor);
  for (int i = 0; i < width; i += 16) {
    const int n = chunk_size(width, i);
    store_chunk(out + i, load_chunk(x + i, n) * factors, n);
  }
}

void soft_cap(float cap, const float* x, float* out, int width) {
  const f32x16 caps = set1(cap);
  for (int i = 0; i < width; i += 16) {
    const int n = chunk_size(width, i);
    store_chunk(out + i, tanh(load_chunk(x + i, n) / caps) * caps, n);
  }
}

}  // namespace

extern const ElementwiseKernels elementwise_table = {add, scale, soft_cap};

}  // namespace slipstream::SLIPSTREAM_ISA
