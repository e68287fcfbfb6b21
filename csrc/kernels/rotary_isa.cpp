#include "kernels/rotary.h"

#include <cstddef>

#include "kernels/chunks.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

void rotate_head(const RotaryShape& shape, const float* cosines, const float* sines, const float* x,
                 float* out) {
  const int pairs = shape.pairs;
  for (int i = 0; i < pairs; i += 16) {
    const int n = chunk_size(pairs, i);
    const f32x16 low = load_chunk(x + i, n);
    const f32x16 high = load_chunk(x + pairs + i, n);
    const f32x16 cosine = load_chunk(cosines + i, n);
    const f32x16 sine = load_chunk(sines + i, n);
    store_chunk(out + i, low * cosine - high * sine, n);
    store_chunk(out + pairs + i, high * cosine + low * sine, n);
  }
  for (int i = 2 * pairs; i < shape.head_dim; i += 16) {
    const int n = chunk_size(shape.head_dim, i);
    store_chunk(out + i, load_chunk(x + i, n), n);
  }
}

void rotate(const RotaryShape& shape, const float* cosines, const float* sines, const float* x,
            float* out) {
  for (int head = 0; head < shape.heads; ++head) {
    const std::ptrdiff_t start = std::ptrdiff_t{head} * shape.head_dim;
    rotate_head(shape, cosines, sines, x + start, out + start);
  }
}

}  // namespace

extern const RotaryKernels rotary_table = {rotate};

}  // namespace slipstream::SLIPSTREAM_ISA
