// One tile of attention: up to six queries against the 64 positions of a page. For
// attention_isa.cpp only, which walks the tiles of a split; compiled per instruction set.
//
//   score    keys lane by lane (they are stored transposed), one fma chain over head_dim per key
//   weigh    scale, soft cap, mask, exp against the largest score so far
//   gather   values dimension by dimension, one fma chain over the keys that a query sees
//
// Register tiles of `Queries` × `Blocks` vectors share each load of keys or values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/attention.h"
#include "kernels/chunks.h"
#include "kernels/math.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Vectors in flight beside `queries`: enough to hide the latency of an fma, few enough to stay in
// registers (16 of 8 lanes on AVX2, 32 of 16 lanes on AVX-512).
constexpr int blocks_for(int queries) {
#if defined(SLIPSTREAM_ISA_AVX512)
  return queries > 3 ? 2 : 4;
#else
  return queries > 3 ? 1 : queries > 1 ? 2 : 4;
#endif
}

struct Float32Page {
  using Element = float;
  static SLIPSTREAM_INLINE f32x16 load16(const float* p) { return load(p); }
  static SLIPSTREAM_INLINE f32x16 load16(const float* p, int n) { return load_chunk(p, n); }
  static SLIPSTREAM_INLINE void store16(float* p, f32x16 v, int n) { store_chunk(p, v, n); }
};

struct BFloat16Page {
  using Element = std::uint16_t;
  static SLIPSTREAM_INLINE f32x16 load16(const std::uint16_t* p) { return load_bf16(p); }
  static SLIPSTREAM_INLINE f32x16 load16(const std::uint16_t* p, int n) {
    return n == 16 ? load_bf16(p) : load_bf16(p, n);
  }
  static SLIPSTREAM_INLINE void store16(std::uint16_t* p, f32x16 v, int n) {
    if (n == 16) {
      store_bf16(p, v);
    } else {
      store_bf16(p, v, n);
    }
  }
};

// The positions of one tile that a query sees, counted from the tile's first: begin … end - 1.
struct Seen {
  int begin;
  int end;

  bool none() const { return begin >= end; }
};

// One tile's work for a block of queries.
template <class Page>
struct Tile {
  Tile(const AttentionShape& shape, const QueryBlock& block) : shape(shape), block(block) {}

  const AttentionShape& shape;
  const QueryBlock& block;
  const typename Page::Element* keys;       // [head_dim][64]
  const typename Page::Element* values;     // [64][head_dim]
  const typename Page::Element* next_keys;  // of the tile after this one
  Seen seen[kQueryBlock];
  alignas(64) float weights[kQueryBlock][kTile];  // scores, then weights
};

// Calls work.operator()<n>(first) so that `count` queries are computed in tiles of n, as many as
// the registers hold. Plain C++ has none to spare, and compiles faster one by one.
template <class Work>
SLIPSTREAM_INLINE void in_register_tiles(int count, Work work) {
#if defined(SLIPSTREAM_ISA_AVX2) || defined(SLIPSTREAM_ISA_AVX512)
  switch (count) {
    case 1:
      return work.template operator()<1>(0);
    case 2:
      return work.template operator()<2>(0);
    case 3:
      return work.template operator()<3>(0);
    case 4:
      return work.template operator()<4>(0);
    case 5:
      return work.template operator()<5>(0);
    default:
      return work.template operator()<6>(0);
  }
#else
  for (int q = 0; q < count; ++q) work.template operator()<1>(q);
#endif
}

// While a tile's keys are scored, its values are asked for, and while its values are gathered, the
// next tile's keys: a few lines in each turn of the loop, so that a long context streams. Both
// loops make head_dim · 4 / Blocks turns and the tile has head_dim · 64 elements.
template <int Blocks, class Element>
SLIPSTREAM_INLINE void prefetch_share(const Element* tile, std::ptrdiff_t turn) {
  constexpr std::ptrdiff_t share = 64 * sizeof(Element) * Blocks / 4;  // bytes
  const char* from = reinterpret_cast<const char*>(tile) + turn * share;
  for (std::ptrdiff_t line = 0; line < share; line += 64) __builtin_prefetch(from + line);
}

// weights[q][key … key + 16·Blocks) = the products of queries and keys, one fma chain over
// head_dim.
template <int Queries, int Blocks, class Page>
SLIPSTREAM_INLINE void score(Tile<Page>& tile, int first, int key) {
  f32x16 sums[Queries][Blocks];
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b) sums[q][b] = zero_f32();
  const typename Page::Element* keys = tile.keys + key;
  const std::ptrdiff_t turns = std::ptrdiff_t{key / (16 * Blocks)} * tile.shape.head_dim;
  for (int d = 0; d < tile.shape.head_dim; ++d, keys += kTile) {
    prefetch_share<Blocks>(tile.values, turns + d);
    f32x16 loaded[Blocks];
    for (int b = 0; b < Blocks; ++b) loaded[b] = Page::load16(keys + 16 * b);
    for (int q = 0; q < Queries; ++q) {
      const f32x16 element = set1(tile.block.queries[first + q][d]);
      for (int b = 0; b < Blocks; ++b) sums[q][b] = fma(element, loaded[b], sums[q][b]);
    }
  }
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b) store(tile.weights[first + q] + key + 16 * b, sums[q][b]);
}

// The scores of all keys that some query sees; whole vectors, so some that none sees.
template <class Page>
void score_tile(Tile<Page>& tile) {
  int begin = kTile;
  int end = 0;
  for (int q = 0; q < tile.block.count; ++q) {
    if (tile.seen[q].none()) continue;
    begin = std::min(begin, tile.seen[q].begin);
    end = std::max(end, tile.seen[q].end);
  }
  in_register_tiles(tile.block.count, [&]<int Queries>(int first) {
    constexpr int Blocks = blocks_for(Queries);
    for (int key = begin / (16 * Blocks) * (16 * Blocks); key < end; key += 16 * Blocks) {
      score<Queries, Blocks>(tile, first, key);
    }
  });
}

// Lane i is set where the query sees position key + i.
SLIPSTREAM_INLINE f32x16 where_seen(Seen seen, int key, f32x16 v, float otherwise) {
  static constexpr std::int32_t kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const i32x16 position = load_i32(kCount) + set1_i32(key);
  const f32x16 other = set1(otherwise);
  const f32x16 started = select(less_i32(position, set1_i32(seen.begin)), other, v);
  return select(less_i32(position, set1_i32(seen.end)), started, other);
}

// The scale and soft cap of one query's scores; its unseen keys become minus infinity, which
// changes no maximum. Returns the largest.
template <bool Whole>
SLIPSTREAM_INLINE float finish_scores(const AttentionShape& shape, Seen seen, float* scores) {
  f32x16 largest = set1(kMinusInfinity);
  for (int key = seen.begin / 16 * 16; key < seen.end; key += 16) {
    f32x16 s = load(scores + key) * set1(shape.scale);
    if (shape.soft_cap != 0.0f) s = tanh(s / set1(shape.soft_cap)) * set1(shape.soft_cap);
    if constexpr (!Whole) s = where_seen(seen, key, s, kMinusInfinity);
    store(scores + key, s);
    largest = max(s, largest);
  }
  return max_of(largest);
}

SLIPSTREAM_INLINE float exp_one(float x) {
  alignas(64) float lanes[16];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// values *= factor, of a state.
SLIPSTREAM_INLINE void shrink_values(float* state, int head_dim, float factor) {
  for (int d = 0; d < head_dim; d += 16) {
    store(state + 16 + d, load(state + 16 + d) * set1(factor));
  }
}

// Scores become weights exp(score - largest); what the state holds shrinks to the new base.
template <bool Whole>
SLIPSTREAM_INLINE void weigh(const AttentionShape& shape, Seen seen, float* scores, float* state) {
  const float before = state[0];
  const float here = finish_scores<Whole>(shape, seen, scores);
  const float largest = here > before ? here : before;
  f32x16 total = zero_f32();
  for (int key = seen.begin / 16 * 16; key < seen.end; key += 16) {
    f32x16 weight = exp(load(scores + key) - set1(largest));
    if constexpr (!Whole) weight = where_seen(seen, key, weight, 0.0f);
    store(scores + key, weight);
    total = total + weight;
  }
  if (largest != before) {  // else exp(0), which is 1
    const float shrink = exp_one(before - largest);
    state[0] = largest;
    state[1] = state[1] * shrink;
    shrink_values(state, shape.head_dim, shrink);
  }
  state[1] = state[1] + sum(total);
}

SLIPSTREAM_INLINE void weigh_query(const AttentionShape& shape, Seen seen, float* scores,
                                   float* state) {
  if (seen.begin == 0 && seen.end == kTile) {
    weigh<true>(shape, Seen{0, kTile}, scores, state);
  } else if (!seen.none()) {
    weigh<false>(shape, seen, scores, state);
  }
}

// state values [d … d + 16·Blocks) += weights · values over keys begin … end - 1, ascending, for
// queries first … first + Queries - 1.
template <int Queries, int Blocks, class Page>
SLIPSTREAM_INLINE void gather(const Tile<Page>& tile, int first, int d, int begin, int end) {
  const int head_dim = tile.shape.head_dim;
  f32x16 sums[Queries][Blocks];
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b)
      sums[q][b] = load(tile.block.states[first + q] + 16 + d + 16 * b);
  const std::ptrdiff_t turns = std::ptrdiff_t{d / (16 * Blocks)} * kTile;
  for (int key = begin; key < end; ++key) {
    const typename Page::Element* values = tile.values + std::ptrdiff_t{key} * head_dim + d;
    prefetch_share<Blocks>(tile.next_keys, turns + key);
    f32x16 loaded[Blocks];
    for (int b = 0; b < Blocks; ++b) loaded[b] = Page::load16(values + 16 * b);
    for (int q = 0; q < Queries; ++q) {
      const f32x16 weight = set1(tile.weights[first + q][key]);
      for (int b = 0; b < Blocks; ++b) sums[q][b] = fma(weight, loaded[b], sums[q][b]);
    }
  }
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b)
      store(tile.block.states[first + q] + 16 + d + 16 * b, sums[q][b]);
}

// The last dimensions of a head that is not a multiple of 16 wide.
template <class Page>
void gather_rest(const Tile<Page>& tile, int query, int d, int begin, int end) {
  const int head_dim = tile.shape.head_dim;
  float* out = tile.block.states[query] + 16 + d;
  f32x16 sum = load(out);
  for (int key = begin; key < end; ++key) {
    const f32x16 values =
        Page::load16(tile.values + std::ptrdiff_t{key} * head_dim + d, head_dim - d);
    sum = fma(set1(tile.weights[query][key]), values, sum);
  }
  store(out, sum);
}

template <int Queries, class Page>
void gather_range(const Tile<Page>& tile, int first, int begin, int end) {
  constexpr int Blocks = blocks_for(Queries);
  const int head_dim = tile.shape.head_dim;
  int d = 0;
  for (; d + 16 * Blocks <= head_dim; d += 16 * Blocks) {
    gather<Queries, Blocks>(tile, first, d, begin, end);
  }
  for (; d + 16 <= head_dim; d += 16) gather<Queries, 1>(tile, first, d, begin, end);
  if (d == head_dim) return;
  for (int q = 0; q < Queries; ++q) gather_rest(tile, first + q, d, begin, end);
}

// Keys that all queries see are gathered together, those before and after by each query alone: so
// every query's chain runs over exactly its own keys, in ascending order.
template <class Page>
void gather_tile(const Tile<Page>& tile) {
  const int count = tile.block.count;
  int begin = 0;
  int end = kTile;
  for (int q = 0; q < count; ++q) {
    begin = std::max(begin, tile.seen[q].begin);
    end = std::min(end, tile.seen[q].end);
  }
  const bool shared = begin < end;
  for (int q = 0; q < count; ++q) {
    const int stop = shared ? begin : tile.seen[q].end;
    if (tile.seen[q].begin < stop) gather_range<1>(tile, q, tile.seen[q].begin, stop);
  }
  if (!shared) return;
  in_register_tiles(
      count, [&]<int Queries>(int first) { gather_range<Queries>(tile, first, begin, end); });
  for (int q = 0; q < count; ++q) {
    if (end < tile.seen[q].end) gather_range<1>(tile, q, end, tile.seen[q].end);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
