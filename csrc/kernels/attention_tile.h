// One tile of attention: up to six queries against the 64 positions of a page. For
// attention_isa.cpp only, which walks the tiles of a split; compiled per instruction set.
//
//   score    keys lane by lane (they are stored transposed), one fma chain over head_dim per key
//   weigh    attention_weigh.h
//   gather   values dimension by dimension, one fma chain over the keys that a query sees
//
// Register tiles of `Queries` × `Parts` registers share each load of keys or values.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/attention_pages.h"

namespace slipstream::SLIPSTREAM_ISA {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Parts (isa/vec_parts.h) of sums for each of `queries`: enough chains to hide the latency of an
// fma, few enough to stay in registers beside one part of keys and one element of each query: of
// AVX2's 16 registers of 8 lanes, three queries × 4 parts take 12 + 1 + 3. Codes of four bits want
// registers of their own, for the two dimensions that they hold.
template <class Page>
constexpr int parts_for(int queries) {
#if defined(SLIPSTREAM_ISA_AVX2)
  if (queries == 3) return Page::kBits == 4 ? 2 : 4;
  return queries == 1 ? 8 : queries == 2 ? 4 : 2;
#elif defined(SLIPSTREAM_ISA_AVX512)
  return queries > 3 ? 2 : 4;
#else
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

// How many of `count` queries the first tile takes: as many as share loads with profit. On AVX2 two
// tiles of 3 × 4 parts beat one of 6 × 2, and two of 2 × 4 one of 4 × 2, unless codes would be
// widened twice (bench_attention, 128 positions, six queries of bfloat16: 4 % and 4 %).
template <class Page>
constexpr int queries_at_once(int count) {
#if defined(SLIPSTREAM_ISA_AVX2)
  return count < 4 || Page::kBits < 16 ? count : (count + 1) / 2;
#elif defined(SLIPSTREAM_ISA_AVX512)
  return count;
#else
  return count > 0;  // no registers to spare, and compiled faster one by one
#endif
}

// Calls work.operator()<n>(first) for tiles of n queries until `Count` are done.
template <class Page, int Count, class Work>
SLIPSTREAM_INLINE void in_tiles_of(Work work, int first = 0) {
  constexpr int Most = queries_at_once<Page>(Count);
  if constexpr (Most > 0) {
    work.template operator()<Most>(first);
    in_tiles_of<Page, Count - Most>(work, first + Most);
  }
}

template <class Page, class Work>
SLIPSTREAM_INLINE void in_register_tiles(int count, Work work) {
  switch (count) {
    case 1:
      return in_tiles_of<Page, 1>(work);
    case 2:
      return in_tiles_of<Page, 2>(work);
    case 3:
      return in_tiles_of<Page, 3>(work);
    case 4:
      return in_tiles_of<Page, 4>(work);
    case 5:
      return in_tiles_of<Page, 5>(work);
    default:
      return in_tiles_of<Page, kQueryBlock>(work);
  }
}

// While a tile's keys are scored, its values are asked for, and while its values are gathered, the
// next tile's keys: in each turn of a loop the bytes of as many elements as it computes with, so
// that a long context streams.
template <int Share>  // bytes of a turn: a power of two
SLIPSTREAM_INLINE void prefetch_share(const std::byte* tile, std::ptrdiff_t turn) {
  if (Share < 64 && turn % (64 / std::min(Share, 64)) != 0) return;
  const std::byte* from = tile + turn * Share;
  for (int line = 0; line < Share; line += 64) __builtin_prefetch(from + line);
}

// sums[q][p] += one(q) · part(p). The shorter side waits in registers, the longer one is loaded as
// it is wanted: 16 registers hold 3 × 4 + 3 + 1 as well as 6 × 2 + 2 + 1.
template <int Queries, int Parts, class One, class Part>
SLIPSTREAM_INLINE void multiply_tile(f32part (&sums)[Queries][Parts], One one, Part part) {
  if constexpr (Queries < Parts) {
    f32part ones[Queries];
    for (int q = 0; q < Queries; ++q) ones[q] = set1_part(one(q));
    for (int p = 0; p < Parts; ++p) {
      const f32part loaded = part(p);
      for (int q = 0; q < Queries; ++q) sums[q][p] = fma(ones[q], loaded, sums[q][p]);
    }
  } else {
    f32part loaded[Parts];
    for (int p = 0; p < Parts; ++p) loaded[p] = part(p);
    for (int q = 0; q < Queries; ++q) {
      const f32part broadcast = set1_part(one(q));
      for (int p = 0; p < Parts; ++p) sums[q][p] = fma(broadcast, loaded[p], sums[q][p]);
    }
  }
}

// weights[q][key … key + Parts · kPartLanes) = the products of queries and keys, one fma chain over
// head_dim.
template <int Queries, int Parts, class KeyPage, class ValuePage>
SLIPSTREAM_INLINE void score(Tile<KeyPage, ValuePage>& tile, int first, int key) {
  constexpr int Keys = Parts * kPartLanes;
  constexpr int Dimensions = KeyPage::kDimensions;
  f32part sums[Queries][Parts];
  for (int q = 0; q < Queries; ++q)
    for (int p = 0; p < Parts; ++p) sums[q][p] = zero_part();
  const int head_dim = tile.shape.head_dim;
  const int rows = (head_dim + Dimensions - 1) / Dimensions;
  const std::byte* keys = tile.keys + key * KeyPage::kKeyBytes;
  constexpr int Share = ValuePage::kBits * Keys * Dimensions / 8;
  const std::ptrdiff_t turns = std::ptrdiff_t{key / Keys} * rows;
  const auto multiply = [&]<int Dimension>(int row) {
    multiply_tile<Queries, Parts>(
        sums, [&](int q) { return tile.block.queries[first + q][row * Dimensions + Dimension]; },
        [&](int p) { return KeyPage::template key_part<Dimension>(keys, p * kPartLanes); });
  };
  for (int row = 0; row < rows; ++row, keys += kTile * KeyPage::kKeyBytes) {
    prefetch_share<Share>(tile.values, turns + row);
    multiply.template operator()<0>(row);
    if constexpr (Dimensions == 2) multiply.template operator()<1>(row);
  }
  for (int q = 0; q < Queries; ++q) {
    float* out = tile.weights[first + q] + key;
    if constexpr (KeyPage::kDealt) {
      for (int p = 0; p < Parts; p += 2)
        store_in_order(out + p * kPartLanes, sums[q][p], sums[q][p + 1]);
    } else {
      for (int p = 0; p < Parts; ++p) store_part(out + p * kPartLanes, sums[q][p]);
    }
  }
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
  in_register_tiles<KeyPage>(tile.block.count, [&]<int Queries>(int first) {
    constexpr int Parts = parts_for<KeyPage>(Queries);
    constexpr int Keys = Parts * kPartLanes;
    for (int key = begin / Keys * Keys; key < end; key += Keys) {
      score<Queries, Parts>(tile, first, key);
    }
  });
}

// state values [d … d + Parts · kPartLanes) += weights · values over keys begin … end - 1,
// ascending, for queries first … first + Queries - 1.
template <int Queries, int Parts, class KeyPage, class ValuePage>
SLIPSTREAM_INLINE void gather(const Tile<KeyPage, ValuePage>& tile, int first, int d, int begin,
                              int end) {
  constexpr int Dims = Parts * kPartLanes;
  const int head_dim = tile.shape.head_dim;
  f32part sums[Queries][Parts];
  for (int q = 0; q < Queries; ++q)
    for (int p = 0; p < Parts; ++p)
      sums[q][p] = load_part(tile.block.states[first + q] + 16 + d + p * kPartLanes);
  constexpr int Share = KeyPage::kBits * Dims / 8;
  const std::ptrdiff_t turns = std::ptrdiff_t{d / Dims} * kTile;
  const std::ptrdiff_t value_bytes = ValuePage::value_bytes(head_dim);
  for (int key = begin; key < end; ++key) {
    prefetch_share<Share>(tile.next_keys, turns + key);
    const std::byte* row = tile.values + key * value_bytes;
    multiply_tile<Queries, Parts>(
        sums, [&](int q) { return tile.weights[first + q][key]; },
        [&](int p) { return ValuePage::value_part(row, d, p * kPartLanes); });
  }
  for (int q = 0; q < Queries; ++q)
    for (int p = 0; p < Parts; ++p)
      store_part(tile.block.states[first + q] + 16 + d + p * kPartLanes, sums[q][p]);
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
  constexpr int Parts = parts_for<ValuePage>(Queries);
  constexpr int Dims = Parts * kPartLanes;
  const int head_dim = tile.shape.head_dim;
  int d = 0;
  for (; d + Dims <= head_dim; d += Dims) gather<Queries, Parts>(tile, first, d, begin, end);
  for (; d + 16 <= head_dim; d += 16) {
    gather<Queries, 16 / kPartLanes>(tile, first, d, begin, end);
  }
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
  in_register_tiles<ValuePage>(
      count, [&]<int Queries>(int first) { gather_range<Queries>(tile, first, begin, end); });
  for (int q = 0; q < count; ++q) {
    if (end < tile.seen[q].end) gather_range<1>(tile, q, end, tile.seen[q].end);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
