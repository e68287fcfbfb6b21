#include "step/attention_plan.h"

#include <algorithm>

#include "kernels/attention.h"

namespace slipstream {
namespace {

// Queries of a task: several blocks of kQueryBlock share a split that stays in the cache.
constexpr int kTaskQueries = 48;

int divide_up(int a, int b) { return (a + b - 1) / b; }

}  // namespace

void AttentionPlan::make(const Batch& batch, const RowPlaces& places, int threads) {
  const int row_block = std::max(1, kTaskQueries / heads_.group);
  by_split_ = worth_splitting(batch, threads, row_block);
  tasks_.clear();
  for (int s = 0; s < batch.sequences; ++s) add_tasks(batch, places, s, row_block);
  // The costly ones first: whoever is done early then finds small work.
  std::reverse(tasks_.begin(), tasks_.end());
  if (!by_split_) return;
  state_starts_.resize(batch.rows + 1);
  for (int row = 0; row < batch.rows; ++row) {
    const int position = places.position[row];
    const int splits = position / kSplit - first_seen(position) / kSplit + 1;
    state_starts_[row + 1] = state_starts_[row] + splits * heads_.kv_heads * heads_.group;
  }
}

float* AttentionPlan::reserve_states(int state_size) {
  const std::size_t floats = static_cast<std::size_t>(state_starts_.back()) * state_size;
  return reinterpret_cast<float*>(states_.reserve(floats * sizeof(float)));
}

bool AttentionPlan::worth_splitting(const Batch& batch, int threads, int row_block) const {
  if (threads == 1) return false;
  int tasks = 0;
  int longest = 0;
  for (int s = 0; s < batch.sequences; ++s) {
    const int rows = batch.row_starts[s + 1] - batch.row_starts[s];
    tasks += divide_up(rows, row_block) * heads_.kv_heads;
    longest = std::max(longest, batch.lengths[s] + rows);
  }
  return longest > kSplit && tasks < 4 * threads;
}

void AttentionPlan::add_tasks(const Batch& batch, const RowPlaces& places, int sequence,
                              int row_block) {
  const int rows_end = batch.row_starts[sequence + 1];
  for (int row = batch.row_starts[sequence]; row < rows_end; row += row_block) {
    const int row_end = std::min(row + row_block, rows_end);
    const int split_begin = first_seen(places.position[row]) / kSplit;
    const int split_end = places.position[row_end - 1] / kSplit + 1;
    const int step = by_split_ ? 1 : split_end - split_begin;
    for (int split = split_begin; split < split_end; split += step) {
      for (int head = 0; head < heads_.kv_heads; ++head) {
        tasks_.push_back({sequence, row, row_end, head, split, split + step});
      }
    }
  }
}

}  // namespace slipstream
