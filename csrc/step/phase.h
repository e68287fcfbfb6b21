// The flat list that every thread of a step walks, with a barrier after each entry.
#pragma once

#include <memory>
#include <vector>

#include "step/operation.h"

namespace slipstream {

// Row operations walked together, or one team operation.
class Phase {
 public:
  explicit Phase(RowOperation operation);
  explicit Phase(std::unique_ptr<TeamOperation> operation);

  // Whether `operation` may join this phase: same rows, and none but its own row read.
  bool accepts(const RowOperation& operation) const;
  void append(RowOperation operation) { rows_.push_back(std::move(operation)); }

  void prepare(const Step& step);
  // Whether the step has so little for this phase that one thread had better do it while the
  // others wait anyway: a barrier costs about as much as a row.
  bool solo() const { return solo_; }
  void run(const Step& step, int thread);
  Upcoming upcoming(int thread) const { return team_ ? team_->upcoming(thread) : Upcoming{}; }

  // The node whose time this phase is; phases of several nodes are split when they are timed.
  const std::vector<RowOperation>& row_operations() const { return rows_; }
  const TeamOperation* team_operation() const { return team_.get(); }
  std::vector<const Operation*> operations() const;

 private:
  std::vector<RowOperation> rows_;
  std::unique_ptr<TeamOperation> team_;
  std::unique_ptr<WorkQueue> queue_ = std::make_unique<WorkQueue>();
  int chunk_ = 1;  // rows that a thread takes at once
  bool solo_ = false;
};

}  // namespace slipstream
