// One tile of attention: up to six queries against the 64 positions of a page. For
// attention_isa.cpp only, which walks the tiles of a split; compiled per instruction set.
//
//   score    keys lane by lane (they are stored transposed), one fma chain over head_dim per key
//   weigh    attention_weigh.h
//   gather   values dimension by dimension, one fma chain over the keys that a query sees
//
// Register tiles of `Queries` × `Blocks` vectors share each load of keys or values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/attention_pages.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Vectors in flight beside `queries`: enough to hide the latency of an fma, few enough to stay in
// registers (16 of 8 lanes on AVX2, 32 of 16 lanes on AVX-512). Three queries of two blocks need 17
// registers on AVX2 where loading converts: g++ 12 then keeps one sum in memory, and its chain is
// what everything waits for (bench_attention, 2048 positions: int8 4.3 → 3.4 ms with one block).
template <class Page>
constexpr int blocks_for(int queries) {
#if defined(SLIPSTREAM_ISA_AVX512)
  return queries > 3 ? 2 : 4;
#else
  if (queries == 3) return Page::kBits == 32 ? 2 : 1;
  return queries > 3 ? 1 : queries > 1 ? 2 : 4;
#endif
}

// The positions of one tile that a query sees, counted from the tile's first: begin … end - 1.
struct Seen {
  int begin;
  int end;

  bool none() const { return begin >= end; }
};

// One tile's work for a block of queries.
template <class KeyPage, class ValuePage>
struct Tile {
  Tile(const AttentionShape& shape, const QueryBlock& block) : shape(shape), block(block) {}

  const AttentionShape& shape;
  const QueryBlock& block;
  const std::byte* keys;
  const std::byte* values;
  const std::byte* next_keys;  // of the tile after this one
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
// next tile's keys: a few lines in each turn of the loop, so that a long context streams. The
// scoring loop makes head_dim · 4 / (Blocks · kDimensions) turns, the other head_dim · 4 / Blocks,
// and a tile has head_dim · 64 elements.
template <int Share>  // bytes of a turn: a power of two
SLIPSTREAM_INLINE void prefetch_share(const std::byte* tile, std::ptrdiff_t turn) {
  if (Share < 64 && turn % (64 / std::min(Share, 64)) != 0) return;
  const std::byte* from = tile + turn * Share;
  for (int line = 0; line < Share; line += 64) __builtin_prefetch(from + line);
}

// weights[q][key … key + 16·Blocks) = the products of queries and keys, one fma chain over
// head_dim.
template <int Queries, int Blocks, class KeyPage, class ValuePage>
SLIPSTREAM_INLINE void score(Tile<KeyPage, ValuePage>& tile, int first, int key) {
  f32x16 sums[Queries][Blocks];
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b) sums[q][b] = zero_f32();
  constexpr int Dimensions = KeyPage::kDimensions;
  const int head_dim = tile.shape.head_dim;
  const int rows = (head_dim + Dimensions - 1) / Dimensions;
  const std::byte* keys = tile.keys + key * KeyPage::kKeyBytes;
  constexpr int Share = 2 * ValuePage::kBits * Blocks * Dimensions;
  const std::ptrdiff_t turns = std::ptrdiff_t{key / (16 * Blocks)} * rows;
  for (int row = 0; row < rows; ++row, keys += kTile * KeyPage::kKeyBytes) {
    prefetch_share<Share>(tile.values, turns + row);
    f32x16 loaded[Dimensions][Blocks];
    KeyPage::template load_keys<Blocks>(keys, loaded);
    for (int i = 0; i < Dimensions; ++i) {
      for (int q = 0; q < Queries; ++q) {
        const f32x16 element = set1(tile.block.queries[first + q][row * Dimensions + i]);
        for (int b = 0; b < Blocks; ++b) sums[q][b] = fma(element, loaded[i][b], sums[q][b]);
      }
    }
  }
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b) store(tile.weights[first + q] + key + 16 * b, sums[q][b]);
}

// The scores of all keys that some query sees; whole vectors, so some that none sees.
template <class KeyPage, class ValuePage>
void score_tile(Tile<KeyPage, ValuePage>& tile) {
  int begin = kTile;
  int end = 0;
  for (int q = 0; q < tile.block.count; ++q) {
    if (tile.seen[q].none()) continue;
    begin = std::min(begin, tile.seen[q].begin);
    end = std::max(end, tile.seen[q].end);
  }
  in_register_tiles(tile.block.count, [&]<int Queries>(int first) {
    constexpr int Blocks = blocks_for<KeyPage>(Queries);
    for (int key = begin / (16 * Blocks) * (16 * Blocks); key < end; key += 16 * Blocks) {
      score<Queries, Blocks>(tile, first, key);
    }
  });
}

// state values [d … d + 16·Blocks) += weights · values over keys begin … end - 1, ascending, for
// queries first … first + Queries - 1.
template <int Queries, int Blocks, class KeyPage, class ValuePage>
SLIPSTREAM_INLINE void gather(const Tile<KeyPage, ValuePage>& tile, int first, int d, int begin,
                              int end) {
  const int head_dim = tile.shape.head_dim;
  f32x16 sums[Queries][Blocks];
  for (int q = 0; q < Queries; ++q)
    for (int b = 0; b < Blocks; ++b)
      sums[q][b] = load(tile.block.states[first + q] + 16 + d + 16 * b);
  constexpr int Share = 2 * KeyPage::kBits * Blocks;
  const std::ptrdiff_t turns = std::ptrdiff_t{d / (16 * Blocks)} * kTile;
  const std::ptrdiff_t value_bytes = ValuePage::value_bytes(head_dim);
  for (int key = begin; key < end; ++key) {
    prefetch_share<Share>(tile.next_keys, turns + key);
    f32x16 loaded[Blocks];
    ValuePage::template load_values<Blocks>(tile.values + key * value_bytes, d, loaded);
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
template <class KeyPage, class ValuePage>
void gather_rest(const Tile<KeyPage, ValuePage>& tile, int query, int d, int begin, int end) {
  const int head_dim = tile.shape.head_dim;
  float* out = tile.block.states[query] + 16 + d;
  f32x16 sum = load(out);
  for (int key = begin; key < end; ++key) {
    const std::byte* row = tile.values + key * ValuePage::value_bytes(head_dim);
    const f32x16 values = ValuePage::load_rest(row, d, head_dim - d);
    sum = fma(set1(tile.weights[query][key]), values, sum);
  }
  store(out, sum);
}

template <int Queries, class KeyPage, class ValuePage>
void gather_range(const Tile<KeyPage, ValuePage>& tile, int first, int begin, int end) {
  constexpr int Blocks = blocks_for<ValuePage>(Queries);
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
template <class KeyPage, class ValuePage>
void gather_tile(const Tile<KeyPage, ValuePage>& tile) {
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
