// Whatever the division, every row meets every split that it sees exactly once for each head.

#include "step/attention_plan.h"

#include <map>
#include <tuple>
#include <vector>

#include "kernels/attention.h"
#include "tests/claims.h"

using namespace slipstream;

static void every_row_meets_its_splits(AttentionHeads heads, std::vector<int> lengths,
                                       std::vector<int> counts, int threads) {
  std::vector<int> starts = {0};
  for (int count : counts) starts.push_back(starts.back() + count);
  Batch batch{};
  batch.row_starts = starts.data();
  batch.lengths = lengths.data();
  batch.rows = starts.back();
  batch.sequences = static_cast<int>(counts.size());
  RowPlaces places;
  places.fill(batch);
  AttentionPlan plan(heads);
  plan.make(batch, places, threads);
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
  for (int threads : {1, 2, 8}) {
    for (int window : {0, 1, 100, 700}) {
      every_row_meets_its_splits({3, 3, window}, {0, 511, 512, 5000}, {600, 1, 2, 1}, threads);
      every_row_meets_its_splits({1, 8, window}, {2000}, {1}, threads);
      every_row_meets_its_splits({2, 64, window}, {1023}, {3}, threads);
    }
  }
  return failed_claims;
}
