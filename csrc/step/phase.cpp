#include "step/phase.h"

#include <algorithm>

namespace slipstream {

constexpr int kMostRowsAtOnce = 16;  // a chunk of rows stays in the first-level cache

Phase::Phase(RowOperation operation) { rows_.push_back(std::move(operation)); }

Phase::Phase(std::unique_ptr<TeamOperation> operation) : team_(std::move(operation)) {}

bool Phase::accepts(const RowOperation& operation) const {
  return team_ == nullptr && rows_.front().domain == operation.domain && !operation.crosses_rows;
}

void Phase::prepare(const Step& step) {
  queue_->reset();
  if (team_ != nullptr) {
    team_->prepare(step);
    return;
  }
  const int rows = step.rows_in(rows_.front().domain);
  chunk_ = std::clamp(rows / (step.team.size() * 4), 1, kMostRowsAtOnce);
  const bool idle = step.adapters == nullptr &&
                    std::all_of(rows_.begin(), rows_.end(), [](const RowOperation& operation) {
                      return operation.of_adapters;
                    });
  solo_ = rows <= 1 || idle;
}

void Phase::run(const Step& step, int thread) {
  if (team_ != nullptr) {
    team_->run(step, thread);
    return;
  }
  const int rows = step.rows_in(rows_.front().domain);
  while (true) {
    const int begin = queue_->take() * chunk_;
    if (begin >= rows) return;
    const int end = std::min(begin + chunk_, rows);
    for (const RowOperation& operation : rows_) operation.work(step, begin, end);
  }
}

std::vector<const Operation*> Phase::operations() const {
  if (team_ != nullptr) return {team_.get()};
  std::vector<const Operation*> all;
  for (const RowOperation& operation : rows_) all.push_back(&operation);
  return all;
}

}  // namespace slipstream
