#include "step/kv.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace slipstream {

KV::KV(const std::vector<KVLayer>& layers, KVType type, int page_count)
    : layers_(layers), type_(type), page_count_(page_count) {
  if (page_count < 1) throw std::invalid_argument("page_count must be at least 1");
  const std::size_t element = type == KVType::float32 ? 4 : 2;
  offsets_.push_back(0);
  for (const KVLayer& layer : layers) {
    offsets_.push_back(offsets_.back() + 2 * layer.page_elements() * element);
  }
  page_bytes_ = offsets_.back();
  if (page_bytes_ > (std::size_t{1} << 46) / page_count) {
    throw std::invalid_argument("page_count is more than any machine can hold");
  }
  memory_ = AlignedBuffer(page_bytes_ * page_count);
}

bool KV::fits(const std::vector<KVLayer>& layers, KVType type) const {
  if (type != type_ || layers.size() != layers_.size()) return false;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].kv_heads != layers_[i].kv_heads) return false;
    if (layers[i].head_dim != layers_[i].head_dim) return false;
  }
  return true;
}

std::byte* KV::keys(int layer, int page) {
  return memory_.data() + page_bytes_ * page + offsets_[layer];
}

std::byte* KV::values(int layer, int page) {
  return keys(layer, page) + (offsets_[layer + 1] - offsets_[layer]) / 2;
}

void KV::copy_page(int source, int target) {
  const auto known = [&](int page) { return page >= 0 && page < page_count_; };
  if (!known(source) || !known(target)) {
    throw std::invalid_argument("page numbers must be in 0…" + std::to_string(page_count_ - 1));
  }
  if (source == target) return;
  std::memcpy(keys(0, target), keys(0, source), page_bytes_);
}

}  // namespace slipstream
