#include "step/adapters.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace slipstream {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace

SiteRange Adapters::add_sites(const std::vector<AdapterSite>& sites) {
  const SiteRange range{static_cast<int>(sites_.size()), static_cast<int>(sites.size())};
  sites_.insert(sites_.end(), sites.begin(), sites.end());
  linears_.push_back(range);
  most_sites_ = std::max(most_sites_, range.count);
  return range;
}

void Adapters::check_parts(const std::vector<SitePart>& parts) const {
  std::vector<bool> seen(sites_.size());
  for (const SitePart& entry : parts) {
    require(entry.site >= 0 && entry.site < static_cast<int>(sites_.size()), "no such site");
    require(!seen[entry.site], "an adapter has two parts for one matrix");
    seen[entry.site] = true;
    const AdapterSite& site = sites_[entry.site];
    require(entry.shape.inputs == site.inputs && entry.shape.outputs == site.outputs,
            "an adapter's part has another shape than its matrix");
    require(entry.shape.rank >= 1 && entry.shape.rank <= kMostAdapterRank,
            "an adapter's rank must be in 1…" + std::to_string(kMostAdapterRank));
  }
}

std::unique_ptr<Adapters::Slot> Adapters::packed(const std::vector<SitePart>& parts) const {
  auto made = std::make_unique<Slot>();
  made->parts.resize(sites_.size());
  std::vector<const SitePart*> sources(sites_.size());
  std::size_t bytes = 0;
  for (const SitePart& entry : parts) {
    sources[entry.site] = &entry;
    made->parts[entry.site] = entry.shape;
    bytes += entry.shape.down_bytes() + entry.shape.up_bytes();
  }
  made->memory = AlignedBuffer(bytes);
  std::byte* at = made->memory.data();
  for (const SiteRange& linear : linears_) {
    for (int site = linear.first; site < linear.first + linear.count; ++site) {
      if (sources[site] == nullptr) continue;
      LowRank& part = *made->parts[site];
      pack_down(part, sources[site]->down, at);
      part.down = std::exchange(at, at + part.down_bytes());
    }
    for (int site = linear.first; site < linear.first + linear.count; ++site) {
      if (sources[site] == nullptr) continue;
      LowRank& part = *made->parts[site];
      pack_up(part, sources[site]->up, at);
      part.up = std::exchange(at, at + part.up_bytes());
    }
  }
  return made;
}

void Adapters::load(int slot, const std::vector<SitePart>& parts) {
  require(slot >= 0 && slot < kMostAdapterSlots,
          "adapter slots must be in 0…" + std::to_string(kMostAdapterSlots - 1));
  if (slot >= static_cast<int>(slots_.size())) slots_.resize(slot + 1);
  require(slots_[slot] == nullptr, "this adapter slot is taken");
  check_parts(parts);
  slots_[slot] = packed(parts);
  for (const SitePart& entry : parts)
    most_rank_ = std::max(most_rank_, (entry.shape.rank + 15) / 16 * 16);
}

void Adapters::unload(int slot) {
  require(slot >= 0 && slot < static_cast<int>(slots_.size()) && slots_[slot] != nullptr,
          "this adapter slot is empty");
  slots_[slot].reset();
}

std::size_t Adapters::size_bytes() const {
  std::size_t total = 0;
  for (const auto& slot : slots_) {
    if (slot != nullptr) total += slot->memory.size();
  }
  return total;
}

void Adapters::begin(const Batch& batch, const RowPlaces& places) {
  active_ = false;
  if (batch.adapters == nullptr) return;
  for (int s = 0; s < batch.sequences; ++s) {
    const int slot = batch.adapters[s];
    const bool loaded =
        slot >= 0 && slot < static_cast<int>(slots_.size()) && slots_[slot] != nullptr;
    require(loaded || slot == -1, "a sequence names an adapter slot that is empty");
    active_ = active_ || loaded;
  }
  if (!active_) return;
  rows_.resize(batch.rows);
  for (int row = 0; row < batch.rows; ++row) rows_[row] = batch.adapters[places.sequence[row]];
  selected_.resize(batch.logit_count);
  for (int i = 0; i < batch.logit_count; ++i) selected_[i] = rows_[batch.logit_rows[i]];
  reserve(batch.rows);
}

void Adapters::reserve(std::int64_t rows) {
  const std::size_t needed = sizeof(float) * rows * most_sites_ * most_rank_;
  if (products_.size() < needed) products_ = AlignedBuffer(needed);
}

bool Adapters::touches(Domain domain, std::int64_t row_begin, std::int64_t row_end,
                       SiteRange sites) const {
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    for (int i = 0; i < sites.count; ++i) {
      if (part(domain, row, sites.first + i) != nullptr) return true;
    }
  }
  return false;
}

}  // namespace slipstream
