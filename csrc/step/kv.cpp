#include "step/kv.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace slipstream {

KV::KV(const std::vector<KVLayer>& layers, KVType type, const std::vector<int>& page_counts)
    : layers_(layers), type_(type), page_counts_(page_counts) {
  std::size_t kinds = 1;
  for (const KVLayer& layer : layers) kinds = std::max(kinds, std::size_t(layer.kind) + 1);
  if (page_counts.size() != kinds) {
    throw std::invalid_argument("one page_count for each of " + std::to_string(kinds) + " kinds");
  }
  pools_.resize(kinds);
  for (const KVLayer& layer : layers) {
    const std::size_t keys = layer.page_bytes(type.keys);
    places_.push_back({pools_[layer.kind].page_bytes, keys});
    pools_[layer.kind].page_bytes += keys + layer.page_bytes(type.values);
  }
  for (std::size_t kind = 0; kind < kinds; ++kind) reserve(pools_[kind], page_counts[kind]);
}

void KV::reserve(Pool& pool, int page_count) {
  if (page_count < 1) throw std::invalid_argument("page_count must be at least 1");
  if (pool.page_bytes > (std::size_t{1} << 46) / page_count) {
    throw std::invalid_argument("page_count is more than any machine can hold");
  }
  pool.memory = AlignedBuffer(pool.page_bytes * page_count);
}

std::size_t KV::size_bytes() const {
  std::size_t total = 0;
  for (const Pool& pool : pools_) total += pool.memory.size();
  return total;
}

bool KV::fits(const std::vector<KVLayer>& layers, KVType type) const {
  return type == type_ && layers == layers_;
}

std::byte* KV::keys(int layer, int page) {
  Pool& pool = pools_[layers_[layer].kind];
  return pool.memory.data() + pool.page_bytes * page + places_[layer].offset;
}

std::byte* KV::values(int layer, int page) { return keys(layer, page) + places_[layer].key_bytes; }

void KV::copy_page(int source, int target, int kind) {
  if (kind < 0 || kind >= static_cast<int>(pools_.size())) {
    throw std::invalid_argument("there are " + std::to_string(pools_.size()) + " kinds of pages");
  }
  const int page_count = page_counts_[kind];
  const auto known = [&](int page) { return page >= 0 && page < page_count; };
  if (!known(source) || !known(target)) {
    throw std::invalid_argument("page numbers must be in 0…" + std::to_string(page_count - 1));
  }
  if (source == target) return;
  Pool& pool = pools_[kind];
  std::byte* data = pool.memory.data();
  std::memcpy(data + pool.page_bytes * target, data + pool.page_bytes * source, pool.page_bytes);
}

}  // namespace slipstream
