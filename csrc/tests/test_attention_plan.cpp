// Whatever the division, every row meets every split that it sees exactly once for each head; and
// no long sequence is left to one thread.

#include "step/attention_plan.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "kernels/attention.h"
#include "tests/claims.h"

using namespace slipstream;

// The plan of sequences that have `lengths` behind them and `counts` rows.
struct Planned {
  std::vector<int> lengths;
  std::vector<int> starts = {0};
  Batch batch{};
  RowPlaces places;
  AttentionPlan plan;

  Planned(AttentionHeads heads, std::vector<int> lengths, const std::vector<int>& counts,
          int threads)
      : lengths(std::move(lengths)), plan(heads) {
    for (int count : counts) starts.push_back(starts.back() + count);
    batch.row_starts = starts.data();
    batch.lengths = this->lengths.data();
    batch.rows = starts.back();
    batch.sequences = static_cast<int>(counts.size());
    places.fill(batch);
    plan.make(batch, places, threads);
  }
};

static void a_long_sequence_is_shared(AttentionHeads heads, int depth, int short_ones,
                                      int threads) {
  std::vector<int> lengths(short_ones, 100);
  lengths.insert(lengths.begin() + short_ones / 2, depth);
  const Planned planned(heads, lengths, std::vector<int>(lengths.size(), 1), threads);
  const auto& tasks = planned.plan.tasks();
  std::int64_t total = 0;
  for (const AttentionTask& task : tasks) total += task.cost;
  CLAIM(total == std::int64_t{heads.kv_heads} * (depth + 1 + short_ones * 101));
  const std::int64_t fair = std::max<std::int64_t>(kSplit, total / (4 * threads));
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    CLAIM(tasks[i].cost <= fair);
    CLAIM(i == 0 || tasks[i].cost <= tasks[i - 1].cost);
  }
}

static void every_row_meets_its_splits(AttentionHeads heads, std::vector<int> lengths,
                                       std::vector<int> counts, int threads) {
  const Planned planned(heads, std::move(lengths), counts, threads);
  const AttentionPlan& plan = planned.plan;
  const RowPlaces& places = planned.places;
  const Batch& batch = planned.batch;
  std::map<std::tuple<int, int, int>, int> met;  // (row, kv head, split)
  for (const AttentionTask& task : plan.tasks()) {
    for (int row = task.row_begin; row < task.row_end; ++row) {
      CLAIM(places.sequence[row] == task.sequence);
      for (int split = task.split_begin; split < task.split_end; ++split) {
        ++met[{row, task.kv_head, split}];
      }
    }
  }
  for (int row = 0; row < batch.rows; ++row) {
    const int position = places.position[row];
    const int first = plan.first_seen(position) / kSplit;
    for (int split = first; split <= position / kSplit; ++split) {
      for (int head = 0; head < heads.kv_heads; ++head) CLAIM((met[{row, head, split}] == 1));
    }
    if (!plan.by_split()) continue;
    const auto states = plan.state_start(row + 1) - plan.state_start(row);
    CLAIM(states == (position / kSplit - first + 1) * heads.kv_heads * heads.group);
  }
}

int main() {
  for (int threads : {2, 8}) {
    for (int depth : {100, 600, 8000}) {
      for (int short_ones : {0, 7, 60})
        a_long_sequence_is_shared({3, 3, 0}, depth, short_ones, threads);
    }
  }
  for (int threads : {1, 2, 8}) {
    for (int window : {0, 1, 100, 700}) {
      every_row_meets_its_splits({3, 3, window}, {0, 511, 512, 5000}, {600, 1, 2, 1}, threads);
      every_row_meets_its_splits({1, 8, window}, {2000}, {1}, threads);
      every_row_meets_its_splits({2, 64, window}, {1023}, {3}, threads);
    }
  }
  return failed_claims;
}
