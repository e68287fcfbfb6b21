// Storage of keys and values in pages of 64 positions, for each kind of attention apart: layers
// that see equally far are of one kind, and the pages behind a window are used again, while those
// of layers that see everything stay. A page holds every layer of its kind, so that a sequence
// touches no more memory than its pages.
//
//   kind 0 | page 0: layer 0 | layer 2 | … | page 1: layer 0 | …
//   kind 1 | page 0: layer 1 | layer 3 | …
//   a layer of a page:  keys   [kv_heads][head_dim][64]   transposed: a lane is a position
//                       values [kv_heads][64][head_dim]
//
// Elements are float32 or bfloat16 (rounded to nearest even when written).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/memory.h"

namespace slipstream {

enum class KVType { float32, bfloat16 };

struct KVLayer {
  int kv_heads;
  int head_dim;
  int kind = 0;

  bool operator==(const KVLayer&) const = default;
  std::size_t page_elements() const {  // of the keys; the values take as many
    return static_cast<std::size_t>(kv_heads) * head_dim * 64;
  }
};

class KV {
 public:
  // page_counts: of each kind. std::invalid_argument if there are none or too few of them, one is
  // < 1, or the storage would exceed the address space.
  KV(const std::vector<KVLayer>& layers, KVType type, const std::vector<int>& page_counts);
  KV(KV&&) = default;  // its memory has one owner

  const std::vector<int>& page_counts() const { return page_counts_; }
  std::size_t size_bytes() const;
  KVType type() const { return type_; }
  bool fits(const std::vector<KVLayer>& layers, KVType type) const;

  // From the keys of one page to those of the next.
  std::size_t page_bytes(int layer) const { return pools_[layers_[layer].kind].page_bytes; }
  std::byte* keys(int layer, int page);
  std::byte* values(int layer, int page);

  // Makes `target` hold what `source` holds, in every layer of the kind. std::invalid_argument out
  // of range.
  void copy_page(int source, int target, int kind);

 private:
  struct Pool {
    std::size_t page_bytes = 0;
    AlignedBuffer memory;
  };
  struct Place {
    std::size_t offset;  // where a layer's keys begin in a page
    std::size_t size;    // of its keys; its values follow, and take as much
  };

  static void reserve(Pool& pool, int page_count);

  std::vector<KVLayer> layers_;
  std::vector<Place> places_;  // [layers]
  std::vector<Pool> pools_;    // [kinds]
  KVType type_;
  std::vector<int> page_counts_;  // [kinds]
};

}  // namespace slipstream
