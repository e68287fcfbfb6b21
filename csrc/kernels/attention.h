// Attention of a few queries to the pages of one key/value head.
//
// The order of operations is fixed, whatever the threads: keys in tiles of 64 positions (one page),
// tiles merged in ascending order within a split of 512 positions (`attend`), splits merged in
// ascending order (`merge`). A key that a query does not see contributes exactly nothing.
//
//   positions  0        64       128              512                  1024
//   tiles      |  page  |  page  |  …  |  page  |  …
//   splits     |           split 0              |      split 1         |  …
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa/isa.h"
#include "kernels/kv_format.h"

namespace slipstream {

constexpr int kSplit = 512;
constexpr int kQueryBlock = 6;  // 6 queries × 16 keys fill 12 of AVX2's 16 registers

struct AttentionShape {
  int head_dim;
  float scale;     // of products of queries and keys; above 0
  float soft_cap;  // 0: none
  KVType type;     // what the pages hold
};

// One sequence's pages of one key/value head.
struct HeadPages {
  const std::byte* keys;  // of page 0, as kernels/kv_format.h says
  const std::byte* values;
  std::size_t page_bytes;     // from page to page
  const std::int32_t* pages;  // the sequence's page numbers in order
};

// Up to kQueryBlock queries and the positions that each sees: first … last - 1.
struct QueryBlock {
  int count;
  const float* queries[kQueryBlock];  // [head_dim], or what `prepare` made of them
  float* states[kQueryBlock];         // state_size(head_dim)
  std::int32_t rows[kQueryBlock];     // of the batch, and query heads: for the caller
  std::int32_t heads[kQueryBlock];
  std::int32_t first[kQueryBlock];
  std::int32_t last[kQueryBlock];
};

// What a query has gathered: the largest score (before its scale, if no cap bends it), the sum of
// weights, the weighted sum of the values' minimums, then at 16 the weighted sum of values
// [head_dim, padded to 16]. In floats, a multiple of 16.
constexpr int state_size(int head_dim) { return 16 + (head_dim + 15) / 16 * 16; }

// Codes of keys are of the rotated head: so are the queries that meet them.
constexpr bool needs_preparing(KVType type) {
  return type.keys == KVFormat::int8 || type.keys == KVFormat::int4;
}
// Floats of a prepared query: the rotated query, zeros up to whole 32s, then the sum of its
// elements.
constexpr int prepared_size(int head_dim) { return 2 * nibble_rows(head_dim) + 16; }

struct AttentionKernels {
  // out [prepared_size] of one query [head_dim], if the type needs_preparing.
  void (*prepare)(const AttentionShape& shape, const float* query, float* out);
  // Sets the states of the block to what its queries gather in `split`; those that see nothing of
  // the split are left as they are.
  void (*attend)(const AttentionShape& shape, const HeadPages& pages, const QueryBlock& block,
                 int split);
  // into = into and from together; `from` is of the later split.
  void (*merge)(const AttentionShape& shape, float* into, const float* from);
  // out [head_dim] = the weighted mean of the values.
  void (*finish)(const AttentionShape& shape, const float* state, float* out);
  // Writes one position's key and value [head_dim] of one head into slot 0 … 63 of its page. Where
  // they are rounded to codes, one that is not finite reads back as NaN.
  void (*write)(const AttentionShape& shape, const float* key, const float* value, std::byte* keys,
                std::byte* values, int slot);
};

const AttentionKernels& attention_kernels(Isa isa);

}  // namespace slipstream
