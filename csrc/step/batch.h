// What one step reads, as pointers into arrays that the caller keeps alive: see backends/batch.py.
//
// Checked here once (`check_batch`), then trusted by every operation.
#pragma once

#include <cstdint>
#include <vector>

namespace slipstream {

constexpr int kPageSize = 64;  // positions in a page, and the tile of keys that attention merges

struct Batch {
  const std::int32_t* ids;         // [rows]
  const std::int32_t* row_starts;  // [sequences + 1]
  const std::int32_t* lengths;     // [sequences] positions in the cache before this step
  const std::int32_t* pages;       // [page_tables][sequences][page_stride]
  const std::int32_t* logit_rows;  // [logit_count] ascending
  int rows;
  int sequences;
  int page_stride;
  int page_tables;  // one for each kind of attention, or one that is good for all
  int logit_count;
  const std::int32_t* adapters = nullptr;  // [sequences] slots, -1: none; null: none at all

  const std::int32_t* pages_of(int sequence, int kind) const {
    const std::ptrdiff_t table = page_tables == 1 ? 0 : kind;
    return pages + (table * sequences + sequence) * page_stride;
  }
};

// Where each row of a batch stands.
struct RowPlaces {
  std::vector<std::int32_t> sequence;  // [rows]
  std::vector<std::int32_t> position;  // [rows]

  void fill(const Batch& batch);
};

// What a batch is held against.
struct PageLimits {  // of one kind of attention
  int window;        // positions that a row sees; 0: all before it
  int page_count = 0;
};

struct BatchLimits {
  int vocabulary;
  std::vector<PageLimits> kinds;
};

// std::invalid_argument unless the batch is consistent and within the vocabulary and the pages.
// Pages that no row of the batch sees in attentions of their kind may have any number.
void check_batch(const Batch& batch, const BatchLimits& limits);

}  // namespace slipstream
