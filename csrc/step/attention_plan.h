// How one step's attention is divided among threads: a pure function of the batch.
//
// Usually a task is a block of rows of one sequence and one key/value head, and walks all splits.
// Where such a task would be much of the step's work (few rows, or a long sequence among short
// ones), a task is one split, and the splits are merged afterwards. The costly tasks come first, so
// that whoever is done early finds small work. Either way each row merges its splits in ascending
// order: the division changes no bit.
#pragma once

#include <cstdint>
#include <vector>

#include "isa/memory.h"
#include "step/batch.h"

namespace slipstream {

struct AttentionHeads {
  int kv_heads;
  int group;   // query heads that share a key/value head
  int window;  // positions that a row sees, itself included; 0: all before it

  bool operator==(const AttentionHeads&) const = default;
};

struct AttentionTask {
  std::int32_t sequence;
  std::int32_t row_begin;  // rows of the batch
  std::int32_t row_end;
  std::int32_t kv_head;
  std::int32_t split_begin;
  std::int32_t split_end;
  std::int64_t cost;  // positions seen, added up over the rows
};

class AttentionPlan {
 public:
  explicit AttentionPlan(AttentionHeads heads) : heads_(heads) {}

  // Allocates only when a batch is larger than any before.
  void make(const Batch& batch, const RowPlaces& places, int threads);

  const AttentionHeads& heads() const { return heads_; }
  bool by_split() const { return by_split_; }
  const std::vector<AttentionTask>& tasks() const { return tasks_; }

  // The first position that the row at `position` sees.
  int first_seen(int position) const {
    return heads_.window > 0 && position >= heads_.window ? position - heads_.window + 1 : 0;
  }
  // By split: where the states of a row's splits begin, counted in states; a row has
  // one for each split and query head, [split][head].
  std::int64_t state_start(int row) const { return state_starts_[row]; }
  // By split: room for all states, shared by the operations of a plan, which run in turn.
  float* reserve_states(int state_size);

 private:
  void add_tasks(const Batch& batch, const RowPlaces& places);
  void add_blocks(int sequence, int row_begin, int row_end, const RowPlaces& places);
  bool worth_splitting(int threads) const;
  void count_states(const RowPlaces& places, int rows);
  std::int64_t positions_seen(int position, int split_begin, int split_end) const;

  AttentionHeads heads_;
  bool by_split_ = false;
  std::vector<AttentionTask> tasks_;
  std::vector<std::int64_t> state_starts_ = {0};  // [rows + 1], by split only
  Scratch states_;
};

}  // namespace slipstream
