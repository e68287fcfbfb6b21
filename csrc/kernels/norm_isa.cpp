// Sums are kept in 16 lanes (lane i takes elements i, i + 16, …) and added up in the fixed tree of
// isa/vec.h.

#include "kernels/norm.h"

#include <cmath>
#include <cstddef>

#include "kernels/chunks.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

float sum_of(const float* x, int width) {
  f32x16 total = zero_f32();
  for (int i = 0; i < width; i += 16) total = total + load_chunk(x + i, chunk_size(width, i));
  return sum(total);
}

float sum_of_squares(const float* x, int width) {
  f32x16 total = zero_f32();
  for (int i = 0; i < width; i += 16) {
    const f32x16 v = load_chunk(x + i, chunk_size(width, i));
    total = fma(v, v, total);
  }
  return sum(total);
}

// Of the distances from `mean`, which lanes beyond the row must not count as their own.
float sum_of_squared_distances(const float* x, float mean, int width) {
  alignas(64) float centre[16];
  store(centre, set1(mean));
  f32x16 total = zero_f32();
  for (int i = 0; i < width; i += 16) {
    const int n = chunk_size(width, i);
    const f32x16 v = load_chunk(x + i, n) - load_chunk(centre, n);
    total = fma(v, v, total);
  }
  return sum(total);
}

void norm_rms_piece(const NormShape& shape, const float* x, float* out) {
  const float mean = sum_of_squares(x, shape.width) / float(shape.width);
  const f32x16 inverse = set1(1.0f / std::sqrt(mean + shape.epsilon));
  for (int i = 0; i < shape.width; i += 16) {
    const int n = chunk_size(shape.width, i);
    const f32x16 v = load_chunk(x + i, n) * inverse;
    store_chunk(out + i, v * load_chunk(shape.weights + i, n), n);
  }
}

void norm_layer_piece(const NormShape& shape, const float* x, float* out) {
  const float mean = sum_of(x, shape.width) / float(shape.width);
  const float variance = sum_of_squared_distances(x, mean, shape.width) / float(shape.width);
  const f32x16 centre = set1(mean);
  const f32x16 inverse = set1(1.0f / std::sqrt(variance + shape.epsilon));
  for (int i = 0; i < shape.width; i += 16) {
    const int n = chunk_size(shape.width, i);
    f32x16 v = (load_chunk(x + i, n) - centre) * inverse;
    v = v * load_chunk(shape.weights + i, n);
    if (shape.biases != nullptr) v = v + load_chunk(shape.biases + i, n);
    store_chunk(out + i, v, n);
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
    const int n = chunk_size(shape.width, i);
    store_chunk(sum + i, load_chunk(a + i, n) + load_chunk(b + i, n), n);
  }
  norm(shape, sum, out);
}

}  // namespace

extern const NormKernels norm_table = {norm, add_norm};

}  // namespace slipstream::SLIPSTREAM_ISA
