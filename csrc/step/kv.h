// Storage of keys and values in pages of 64 positions. A page holds them for every layer, so that a
// sequence touches no more memory than its pages.
//
//   | page 0: layer 0 | layer 1 | … | page 1: layer 0 | …
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

  std::size_t page_elements() const {  // of the keys; the values take as many
    return static_cast<std::size_t>(kv_heads) * head_dim * 64;
  }
};

class KV {
 public:
  // std::invalid_argument if page_count < 1 or the storage would exceed the address space.
  KV(const std::vector<KVLayer>& layers, KVType type, int page_count);

  int page_count() const { return page_count_; }
  std::size_t size_bytes() const { return memory_.size(); }
  KVType type() const { return type_; }
  bool fits(const std::vector<KVLayer>& layers, KVType type) const;

  // From the keys of one page to those of the next, in every layer.
  std::size_t page_bytes() const { return page_bytes_; }
  std::byte* keys(int layer, int page);
  std::byte* values(int layer, int page);

  // Makes `target` hold what `source` holds, in every layer. std::invalid_argument out of range.
  void copy_page(int source, int target);

 private:
  std::vector<KVLayer> layers_;
  std::vector<std::size_t> offsets_;  // [layers + 1] where a layer's keys begin in a page
  std::size_t page_bytes_;
  KVType type_;
  int page_count_;
  AlignedBuffer memory_;
};

}  // namespace slipstream
