// Storage of keys and values in pages of 64 positions, for each kind of attention apart: layers
// that see equally far are of one kind, and the pages behind a window are used again, while those
// of layers that see everything stay. A page holds every layer of its kind, so that a sequence
// touches no more memory than its pages.
//
//   kind 0 | page 0: layer 0 | layer 2 | … | page 1: layer 0 | …
//   kind 1 | page 0: layer 1 | layer 3 | …
//   a layer of a page:  keys [kv_heads], then values [kv_heads]; heads as in kernels/kv_format.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/memory.h"
#include "kernels/kv_format.h"

namespace slipstream {

struct KVLayer {
  int kv_heads;
  int head_dim;
  int kind = 0;

  bool operator==(const KVLayer&) const = default;
  std::size_t page_bytes(KVFormat format) const {  // of the keys, or of the values
    return head_bytes(format, head_dim) * kv_heads;
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
    std::size_t offset;     // where a layer's keys begin in a page
    std::size_t key_bytes;  // that they take; its values follow
  };

  static void reserve(Pool& pool, int page_count);

  std::vector<KVLayer> layers_;
  std::vector<Place> places_;  // [layers]
  std::vector<Pool> pools_;    // [kinds]
  KVType type_;
  std::vector<int> page_counts_;  // [kinds]
};

}  // namespace slipstream
