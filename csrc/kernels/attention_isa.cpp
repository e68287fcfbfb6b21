// Walks the tiles of a split, merges splits, and writes keys and values into their pages.

#include "kernels/attention.h"

#include <algorithm>

#include "kernels/attention_weigh.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

void clear_state(float* state, int head_dim) {
  std::fill(state, state + state_size(head_dim), 0.0f);
  state[0] = kMinusInfinity;
}

template <class KeyPage, class ValuePage>
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
  Tile<KeyPage, ValuePage> tile(shape, block);
  for (int start = first / kTile * kTile; start < last; start += kTile) {
    const std::size_t at = pages.page_bytes * pages.pages[start / kTile];
    tile.keys = pages.keys + at;
    tile.values = pages.values + at;
    const bool more = start + kTile < last;
    tile.next_keys = pages.keys + (more ? pages.page_bytes * pages.pages[start / kTile + 1] : at);
    for (int q = 0; q < block.count; ++q) {
      tile.seen[q] = {std::max(block.first[q] - start, 0), std::min(block.last[q] - start, kTile)};
    }
    score_tile(tile);
    for (int q = 0; q < block.count; ++q) weigh_query(tile, q);
    gather_tile(tile);
  }
}

// Calls work.operator()<Page>() for the page class of a format.
template <class Work>
void with_page(KVFormat format, Work work) {
  switch (format) {
    case KVFormat::float32:
      return work.template operator()<Float32Page>();
    case KVFormat::bfloat16:
      return work.template operator()<BFloat16Page>();
    case KVFormat::int8:
      return work.template operator()<Int8Page>();
    case KVFormat::int4:
      return work.template operator()<Int4Page>();
  }
}

// The pairs of formats that are served (step/kv.h): equal ones, and int8 keys with int4 values.
void attend(const AttentionShape& shape, const HeadPages& pages, const QueryBlock& block,
            int split) {
  if (shape.type == KVType{KVFormat::int8, KVFormat::int4}) {
    return attend_as<Int8Page, Int4Page>(shape, pages, block, split);
  }
  with_page(shape.type.keys,
            [&]<class Page>() { attend_as<Page, Page>(shape, pages, block, split); });
}

void prepare(const AttentionShape& shape, const float* query, float* out) {
  const int padded = 2 * nibble_rows(shape.head_dim);
  std::copy(query, query + shape.head_dim, out);
  std::fill(out + shape.head_dim, out + padded, 0.0f);
  rotate_head(out, shape.head_dim);
  f32x16 total = zero_f32();
  for (int d = 0; d < padded; d += 16) total = total + load(out + d);
  out[padded] = sum(total);
}

void merge(const AttentionShape& shape, float* into, const float* from) {
  const float largest = from[0] > into[0] ? from[0] : into[0];
  const float shrink_into = shrink_of(shape, into[0] - largest);
  const float shrink_from = shrink_of(shape, from[0] - largest);
  into[0] = largest;
  into[1] = __builtin_fmaf(from[1], shrink_from, into[1] * shrink_into);
  into[2] = __builtin_fmaf(from[2], shrink_from, into[2] * shrink_into);
  for (int d = 16; d < 16 + shape.head_dim; d += 16) {
    const f32x16 kept = load(into + d) * set1(shrink_into);
    store(into + d, fma(load(from + d), set1(shrink_from), kept));
  }
}

void finish(const AttentionShape& shape, const float* state, float* out) {
  const f32x16 total = set1(state[1]);
  with_page(shape.type.values, [&]<class Page>() {
    for (int d = 0; d < shape.head_dim; d += 16) {
      f32x16 values = load(state + 16 + d);
      if constexpr (Page::kDealt) values = in_order(values);
      if constexpr (Page::kShifted) values = values + set1(state[2]);
      store_chunk(out + d, values / total, chunk_size(shape.head_dim, d));
    }
    if constexpr (Page::kRotatedValues) rotate_head(out, shape.head_dim);
  });
}

void write(const AttentionShape& shape, const float* key, const float* value, std::byte* keys,
           std::byte* values, int slot) {
  with_page(shape.type.keys,
            [&]<class Page>() { Page::write_key(key, shape.head_dim, keys, slot); });
  with_page(shape.type.values,
            [&]<class Page>() { Page::write_value(value, shape.head_dim, values, slot); });
}

}  // namespace

extern const AttentionKernels attention_table = {prepare, attend, merge, finish, write};

}  // namespace slipstream::SLIPSTREAM_ISA
