#include "step/kv.h"

#include <stdexcept>

namespace slipstream {

KV::KV(const std::vector<KVLayer>& layers, KVType type, int page_count)
    : layers_(layers), type_(type), page_count_(page_count) {
  if (page_count < 1) throw std::invalid_argument("page_count must be at least 1");
  const std::size_t element = type == KVType::float32 ? 4 : 2;
  std::size_t total = 0;
  for (const KVLayer& layer : layers) {
    offsets_.push_back(total);
    page_bytes_.push_back(2 * layer.page_elements() * element);
    const std::size_t most = (std::size_t{1} << 46) - total;
    if (page_bytes_.back() > most / page_count) {
      throw std::invalid_argument("page_count is more than any machine can hold");
    }
    total += page_bytes_.back() * page_count;
  }
  memory_ = AlignedBuffer(total);
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
  return memory_.data() + offsets_[layer] + page_bytes_[layer] * page;
}

std::byte* KV::values(int layer, int page) { return keys(layer, page) + page_bytes_[layer] / 2; }

}  // namespace slipstream
