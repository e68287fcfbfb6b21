// Root-mean-square and layer norms. Sums are kept in 16 lanes (lane i takes elements i, i + 16, …)
// and added up in the fixed tree of isa/vec.h.

#include "kernels/norm.h"

#include <cmath>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

SLIPSTREAM_INLINE int lanes_left(int width, int i) { return width - i < 16 ? width - i : 16; }

float sum_of(const float* x, int width) {
  f32x16 total = zero_f32();
  int i = 0;
  for (; i + 16 <= width; i += 16) total = total + load(x + i);
  if (i < width) total = total + load(x + i, width - i);
  return sum(total);
}

float sum_of_squares(const float* x, int width) {
  f32x16 total = zero_f32();
  int i = 0;
  for (; i + 16 <= width; i += 16) {
    const f32x16 v = load(x + i);
    total = fma(v, v, total);
  }
  if (i < width) {
    const f32x16 v = load(x + i, width - i);
    total = fma(v, v, total);
  }
  return sum(total);
}

void norm_rms_piece(const NormShape& shape, const float* x, float* out) {
  const float mean = sum_of_squares(x, shape.width) / float(shape.width);
  const f32x16 inverse = set1(1.0f / std::sqrt(mean + shape.epsilon));
  for (int i = 0; i < shape.width; i += 16) {
    const int n = lanes_left(shape.width, i);
    store(out + i, (load(x + i, n) * inverse) * load(shape.weights + i, n), n);
  }
}

float sum_of_squared_distances(const float* x, float mean, int width) {
  f32x16 total = zero_f32();
  for (int i = 0; i < width; i += 16) {
    const int n = lanes_left(width, i);
    // Lanes beyond the row are (0 - mean) without this select.
    const f32x16 v = n == 16 ? load(x + i) - set1(mean) : load(x + i, n) - load_repeated(mean, n);
    total = fma(v, v, total);
  }
  return sum(total);
}

void norm_layer_piece(const NormShape& shape, const float* x, float* out) {
  const float mean = sum_of(x, shape.width) / float(shape.width);
  const float variance = sum_of_squared_distances(x, mean, shape.width) / float(shape.width);
  const f32x16 centre = set1(mean);
  const f32x16 inverse = set1(1.0f / std::sqrt(variance + shape.epsilon));
  for (int i = 0; i < shape.width; i += 16) {
    const int n = lanes_left(shape.width, i);
    f32x16 v = ((load(x + i, n) - centre) * inverse) * load(shape.weights + i, n);
    if (shape.biases != nullptr) v = v + load(shape.biases + i, n);
    store(out + i, v, n);
  }
}

void norm(const NormShape& shape, const float* x, float* out) {
  for (int piece = 0; piece < shape.pieces; ++piece) {
    const std::ptrdiff_t start = std::ptrdiff_t{piece} * shape.width;
    if (shape.layer) {
      norm_layer_piece(shape, x + start, out + start);
    } else {
      norm_rms_piece(shape, x + start, out + start);
    }
  }
}

void add_norm(const NormShape& shape, const float* a, const float* b, float* sum, float* out) {
  for (int i = 0; i < shape.width; i += 16) {
    const int n = lanes_left(shape.width, i);
    store(sum + i, load(a + i, n) + load(b + i, n), n);
  }
  norm(shape, sum, out);
}

}  // namespace

extern const NormKernels norm_table = {norm, add_norm};

}  // namespace slipstream::SLIPSTREAM_ISA
