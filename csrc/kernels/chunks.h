// Walks a row in chunks of 16 elements, the last of which may be shorter. For kernels only.
#pragma once

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {

SLIPSTREAM_INLINE int chunk_size(int width, int i) { return width - i < 16 ? width - i : 16; }

SLIPSTREAM_INLINE f32x16 load_chunk(const float* p, int n) {
  return n == 16 ? load(p) : load(p, n);
}

SLIPSTREAM_INLINE void store_chunk(float* p, f32x16 v, int n) {
  if (n == 16) {
    store(p, v);
  } else {
    store(p, v, n);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
