// The adapters of a program, and which rows of a step have one.
//
// A site is one matrix of a linear, numbered in the order in which the builder met them; an adapter
// holds a low-rank part for some sites. Slots are the engine's: a batch names one for each
// sequence. The product A x of a linear's rows waits in `t` from the row phase before the linear,
// which writes it, until the linear, which adds B t; only one linear at a time needs it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/adapter.h"
#include "step/batch.h"
#include "step/buffers.h"

namespace slipstream {

constexpr int kMostAdapterSlots = 1024;
constexpr std::int64_t kMostAdapterRank = 4096;

struct AdapterSite {
  std::int64_t inputs;
  std::int64_t outputs;
};

// The sites of one linear: `count` of them from `first` on.
struct SiteRange {
  int first = 0;
  int count = 0;
};

// One matrix's part as it comes: A [rank, inputs] and B [outputs, rank], borrowed.
struct SitePart {
  int site;
  LowRank shape;
  const void* down;
  const void* up;
};

class Adapters {
 public:
  SiteRange add_sites(const std::vector<AdapterSite>& sites);
  const std::vector<AdapterSite>& sites() const { return sites_; }

  // Fills an empty slot. std::invalid_argument for a slot that is taken or out of range, a site
  // that does not exist or comes twice, or a part of another shape.
  void load(int slot, const std::vector<SitePart>& parts);
  // Empties a slot; std::invalid_argument if it is empty.
  void unload(int slot);
  std::size_t size_bytes() const;

  // Notes the rows of a step; std::invalid_argument for an empty slot. Allocates only when a step
  // is larger than any before.
  void begin(const Batch& batch, const RowPlaces& places);
  // Whether any row of the step has an adapter.
  bool active() const { return active_; }

  // The part that row `row` adds at `site`, or null.
  const LowRank* part(Domain domain, std::int64_t row, int site) const {
    const int slot = slots_of(domain)[row];
    if (slot < 0) return nullptr;
    const auto& part = slots_[slot]->parts[site];
    return part ? &*part : nullptr;
  }
  // Whether any of these rows has a part at one of the sites.
  // Calls visit(part, rows) for rows [row_begin, row_end) by their part at `site`, up to
  // kAdapterRows of one part together; `place(rows, row)` adds a row to the rows.
  template <class Place, class Visit>
  void by_part(Domain domain, std::int64_t row_begin, std::int64_t row_end, int site, Place place,
               Visit visit) const;
  bool touches(Domain domain, std::int64_t row_begin, std::int64_t row_end, SiteRange sites) const;
  // Where t of a row at the i-th site of its linear is, [rank].
  float* products(std::int64_t row, int i) {
    return reinterpret_cast<float*>(products_.data()) + (row * most_sites_ + i) * most_rank_;
  }

 private:
  // The matrices lie one after the other as a step reads them: of each linear the As, then the Bs.
  struct Slot {
    std::vector<std::optional<LowRank>> parts;  // [sites]
    AlignedBuffer memory;
  };
  const std::vector<std::int32_t>& slots_of(Domain domain) const {
    return domain == Domain::rows ? rows_ : selected_;
  }
  std::unique_ptr<Slot> packed(const std::vector<SitePart>& parts) const;
  void check_parts(const std::vector<SitePart>& parts) const;
  void reserve(std::int64_t rows);

  std::vector<AdapterSite> sites_;
  std::vector<SiteRange> linears_;
  int most_sites_ = 1;           // of one linear
  std::int64_t most_rank_ = 16;  // of any part ever loaded, in whole cache lines
  std::vector<std::unique_ptr<Slot>> slots_;
  bool active_ = false;
  std::vector<std::int32_t> rows_;      // [rows] slot, -1: none
  std::vector<std::int32_t> selected_;  // [logit rows]
  AlignedBuffer products_;              // [rows][most_sites_][most_rank_] floats
};

template <class Place, class Visit>
void Adapters::by_part(Domain domain, std::int64_t row_begin, std::int64_t row_end, int site,
                       Place place, Visit visit) const {
  for (std::int64_t begin = row_begin; begin < row_end; begin += kAdapterRows) {
    const std::int64_t end = std::min<std::int64_t>(begin + kAdapterRows, row_end);
    std::uint32_t left = (1u << (end - begin)) - 1;  // rows not yet visited
    for (std::int64_t first = begin; first < end; ++first) {
      const LowRank* wanted = part(domain, first, site);
      if (wanted == nullptr || (left >> (first - begin) & 1) == 0) continue;
      AdapterRows rows;
      for (std::int64_t row = first; row < end; ++row) {
        if (part(domain, row, site) != wanted) continue;
        place(rows, row);
        ++rows.count;
        left &= ~(1u << (row - begin));
      }
      visit(*wanted, rows);
    }
  }
}

}  // namespace slipstream
