// Walks the tiles of a split, merges splits, and writes keys and values into their pages.

#include "kernels/attention.h"

#include <algorithm>

#include "kernels/attention_tile.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

void clear_state(float* state, int head_dim) {
  std::fill(state, state + state_size(head_dim), 0.0f);
  state[0] = kMinusInfinity;
}

template <class Page>
void attend_as(const AttentionShape& shape, const HeadPages& pages, const QueryBlock& block,
               int split) {
  const int split_begin = split * kSplit;
  int first = split_begin + kSplit;
  int last = split_begin;
  for (int q = 0; q < block.count; ++q) {
    const int begin = std::max(block.first[q], split_begin);
    const int end = std::min(block.last[q], split_begin + kSplit);
    if (begin >= end) continue;
    clear_state(block.states[q], shape.head_dim);
    first = std::min(first, begin);
    last = std::max(last, end);
  }
  Tile<Page> tile(shape, block);
  for (int start = first / kTile * kTile; start < last; start += kTile) {
    const std::size_t at = pages.page_bytes * pages.pages[start / kTile];
    tile.keys = reinterpret_cast<const typename Page::Element*>(pages.keys + at);
    tile.values = reinterpret_cast<const typename Page::Element*>(pages.values + at);
    const bool more = start + kTile < last;
    const std::size_t next = more ? pages.page_bytes * pages.pages[start / kTile + 1] : at;
    tile.next_keys = reinterpret_cast<const typename Page::Element*>(pages.keys + next);
    for (int q = 0; q < block.count; ++q) {
      tile.seen[q] = {std::max(block.first[q] - start, 0), std::min(block.last[q] - start, kTile)};
    }
    score_tile(tile);
    for (int q = 0; q < block.count; ++q) {
      weigh_query(shape, tile.seen[q], tile.weights[q], block.states[q]);
    }
    gather_tile(tile);
  }
}

void attend(const AttentionShape& shape, const HeadPages& pages, const QueryBlock& block,
            int split) {
  if (shape.bfloat16) {
    attend_as<BFloat16Page>(shape, pages, block, split);
  } else {
    attend_as<Float32Page>(shape, pages, block, split);
  }
}

void merge(int head_dim, float* into, const float* from) {
  const float largest = from[0] > into[0] ? from[0] : into[0];
  const float shrink_into = exp_one(into[0] - largest);
  const float shrink_from = exp_one(from[0] - largest);
  into[0] = largest;
  into[1] = __builtin_fmaf(from[1], shrink_from, into[1] * shrink_into);
  for (int d = 16; d < 16 + head_dim; d += 16) {
    const f32x16 kept = load(into + d) * set1(shrink_into);
    store(into + d, fma(load(from + d), set1(shrink_from), kept));
  }
}

void finish(int head_dim, const float* state, float* out) {
  const f32x16 total = set1(state[1]);
  for (int d = 0; d < head_dim; d += 16) {
    store_chunk(out + d, load(state + 16 + d) / total, chunk_size(head_dim, d));
  }
}

template <class Page>
void write_as(int head_dim, const float* key, const float* value, std::byte* keys,
              std::byte* values, int slot) {
  using Element = typename Page::Element;
  Element* key_column = reinterpret_cast<Element*>(keys) + slot;
  Element* value_row = reinterpret_cast<Element*>(values) + std::ptrdiff_t{slot} * head_dim;
  for (int d = 0; d < head_dim; d += 16) {
    const int n = chunk_size(head_dim, d);
    Page::store16(value_row + d, load_chunk(value + d, n), n);
    alignas(64) Element rounded[16];
    Page::store16(rounded, load_chunk(key + d, n), n);
    for (int i = 0; i < n; ++i) key_column[(d + i) * kTile] = rounded[i];
  }
}

void write(const AttentionShape& shape, const float* key, const float* value, std::byte* keys,
           std::byte* values, int slot) {
  if (shape.bfloat16) {
    write_as<BFloat16Page>(shape.head_dim, key, value, keys, values, slot);
  } else {
    write_as<Float32Page>(shape.head_dim, key, value, keys, values, slot);
  }
}

}  // namespace

extern const AttentionKernels attention_table = {attend, merge, finish, write};

}  // namespace slipstream::SLIPSTREAM_ISA
