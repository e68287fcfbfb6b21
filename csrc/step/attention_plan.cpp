#include "step/attention_plan.h"

#include <algorithm>

#include "kernels/attention.h"

namespace slipstream {
namespace {

// Queries of a task: several blocks of kQueryBlock share a split that stays in the cache.
constexpr int kTaskQueries = 48;

// A task that is more than this share of what one thread has to do is split: with fewer tasks than
// these for each thread, the last of them is waited for.
constexpr int kTasksPerThread = 4;

bool costs_more(const AttentionTask& a, const AttentionTask& b) {
  if (a.cost != b.cost) return a.cost > b.cost;
  if (a.row_begin != b.row_begin) return a.row_begin < b.row_begin;
  return a.kv_head != b.kv_head ? a.kv_head < b.kv_head : a.split_begin < b.split_begin;
}

}  // namespace

void AttentionPlan::make(const Batch& batch, const RowPlaces& places, int threads) {
  by_split_ = false;
  add_tasks(batch, places);
  if (worth_splitting(threads)) {
    by_split_ = true;
    add_tasks(batch, places);
    count_states(places, batch.rows);
  }
  std::sort(tasks_.begin(), tasks_.end(), costs_more);
}

void AttentionPlan::count_states(const RowPlaces& places, int rows) {
  state_starts_.resize(rows + 1);
  for (int row = 0; row < rows; ++row) {
    const int position = places.position[row];
    const int splits = position / kSplit - first_seen(position) / kSplit + 1;
    state_starts_[row + 1] = state_starts_[row] + splits * heads_.kv_heads * heads_.group;
  }
}

float* AttentionPlan::reserve_states(int state_size) {
  const std::size_t floats = static_cast<std::size_t>(state_starts_.back()) * state_size;
  return reinterpret_cast<float*>(states_.reserve(floats * sizeof(float)));
}

// Asked of whole tasks, which are in no order yet.
bool AttentionPlan::worth_splitting(int threads) const {
  if (threads == 1) return false;
  std::int64_t total = 0;
  std::int64_t largest = 0;
  bool divisible = false;
  for (const AttentionTask& task : tasks_) {
    total += task.cost;
    largest = std::max(largest, task.cost);
    divisible = divisible || task.split_end - task.split_begin > 1;
  }
  return divisible && largest * kTasksPerThread * threads > total;
}

void AttentionPlan::add_tasks(const Batch& batch, const RowPlaces& places) {
  tasks_.clear();
  const int row_block = std::max(1, kTaskQueries / heads_.group);
  for (int sequence = 0; sequence < batch.sequences; ++sequence) {
    const int rows_end = batch.row_starts[sequence + 1];
    for (int row = batch.row_starts[sequence]; row < rows_end; row += row_block) {
      add_blocks(sequence, row, std::min(row + row_block, rows_end), places);
    }
  }
}

void AttentionPlan::add_blocks(int sequence, int row_begin, int row_end, const RowPlaces& places) {
  const int split_begin = first_seen(places.position[row_begin]) / kSplit;
  const int split_end = places.position[row_end - 1] / kSplit + 1;
  const int step = by_split_ ? 1 : split_end - split_begin;
  for (int split = split_begin; split < split_end; split += step) {
    std::int64_t cost = 0;
    for (int row = row_begin; row < row_end; ++row) {
      cost += positions_seen(places.position[row], split, split + step);
    }
    for (int head = 0; head < heads_.kv_heads; ++head) {
      tasks_.push_back({sequence, row_begin, row_end, head, split, split + step, cost});
    }
  }
}

std::int64_t AttentionPlan::positions_seen(int position, int split_begin, int split_end) const {
  const int first = std::max(first_seen(position), split_begin * kSplit);
  const int last = std::min(position + 1, split_end * kSplit);
  return std::max(0, last - first);
}

}  // namespace slipstream
