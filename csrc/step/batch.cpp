#include "step/batch.h"

#include <limits>
#include <stdexcept>
#include <string>

namespace slipstream {
namespace {

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

void check_rows(const Batch& batch, int vocabulary) {
  const std::int32_t* starts = batch.row_starts;
  require(starts[0] == 0 && starts[batch.sequences] == batch.rows,
          "row_starts must rise from 0 to the number of rows");
  for (int row = 0; row < batch.rows; ++row) {
    if (batch.ids[row] < 0 || batch.ids[row] >= vocabulary) {
      throw std::invalid_argument("token ids must be in 0…" + std::to_string(vocabulary - 1));
    }
  }
}

// Of a sequence whose first row is at position `length`.
void check_pages(const std::int32_t* pages, int length, std::int64_t needed,
                 const PageLimits& limits) {
  const bool all_seen = limits.window == 0 || length < limits.window;
  const int first_seen = all_seen ? 0 : length - limits.window + 1;
  for (std::int64_t i = first_seen / kPageSize; i < needed; ++i) {
    if (pages[i] < 0 || pages[i] >= limits.page_count) {
      throw std::invalid_argument("page numbers must be in 0…" +
                                  std::to_string(limits.page_count - 1));
    }
  }
}

void check_sequence(const Batch& batch, int sequence, const BatchLimits& limits) {
  const std::int32_t begin = batch.row_starts[sequence];
  const std::int32_t end = batch.row_starts[sequence + 1];
  require(begin >= 0 && begin < end && end <= batch.rows,
          "row_starts must rise from 0 to the number of rows");
  const std::int32_t length = batch.lengths[sequence];
  require(length >= 0, "lengths must not be negative");
  const std::int64_t positions = std::int64_t{length} + (end - begin);
  require(positions <= std::numeric_limits<std::int32_t>::max(), "a sequence is too long");
  const std::int64_t needed = (positions + kPageSize - 1) / kPageSize;
  require(needed <= batch.page_stride, "a sequence has fewer pages than its positions need");
  for (std::size_t kind = 0; kind < limits.kinds.size(); ++kind) {
    const std::int32_t* pages = batch.pages_of(sequence, static_cast<int>(kind));
    check_pages(pages, length, needed, limits.kinds[kind]);
  }
}

}  // namespace

void RowPlaces::fill(const Batch& batch) {
  sequence.resize(batch.rows);
  position.resize(batch.rows);
  for (int s = 0; s < batch.sequences; ++s) {
    for (int row = batch.row_starts[s]; row < batch.row_starts[s + 1]; ++row) {
      sequence[row] = s;
      position[row] = batch.lengths[s] + (row - batch.row_starts[s]);
    }
  }
}

void check_batch(const Batch& batch, const BatchLimits& limits) {
  require(batch.rows >= 1 && batch.sequences >= 1, "a batch needs at least one row");
  require(batch.page_tables == 1 || batch.page_tables == static_cast<int>(limits.kinds.size()),
          "pages must have a table for each kind of attention, or one for all");
  check_rows(batch, limits.vocabulary);
  for (int s = 0; s < batch.sequences; ++s) check_sequence(batch, s, limits);
  for (int i = 0; i < batch.logit_count; ++i) {
    const std::int32_t before = i == 0 ? -1 : batch.logit_rows[i - 1];
    require(batch.logit_rows[i] > before && batch.logit_rows[i] < batch.rows,
            "logit_rows must rise and lie within the batch");
  }
}

}  // namespace slipstream
