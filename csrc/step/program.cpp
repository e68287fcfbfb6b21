#include "step/program.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace slipstream {
namespace {

std::int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// This thread's part of a row operation that is timed by itself.
void run_share(const RowOperation& operation, const Step& step, int thread) {
  const std::int64_t rows = step.rows_in(operation.domain);
  const int threads = step.team.size();
  const auto begin = static_cast<int>(rows * thread / threads);
  const auto end = static_cast<int>(rows * (thread + 1) / threads);
  if (begin < end) operation.work(step, begin, end);
}

BatchLimits limits_of(const ProgramParts& parts) {
  BatchLimits limits{parts.limits.vocabulary, {}};
  for (int window : parts.windows) limits.kinds.push_back({window});
  if (limits.kinds.empty()) limits.kinds.push_back({0});  // the pages of nothing
  return limits;
}

void copy_rows(const Step& step, int value, float* out) {
  const Rows<float> rows = rows_of(step, value);
  const int width = step.values[value].width;
  for (int row = 0; row < step.rows_in(step.values[value].domain); ++row) {
    std::memcpy(out + std::ptrdiff_t{row} * width, rows[row], sizeof(float) * width);
  }
}

// Asks for memory piece by piece, into the caches of the thread that will read it.
class Asking {
 public:
  explicit Asking(const Upcoming& what) : what_(what) {}

  // A few more lines of each stream; false when nothing is left.
  bool more() {
    for (int line = 0; line < 4 && at_ < what_.size; ++line, at_ += std::ptrdiff_t{kCacheLine}) {
      for (const std::byte* stream : what_.streams)
        if (stream != nullptr) __builtin_prefetch(stream + at_);
    }
    return at_ < what_.size;
  }

 private:
  const Upcoming what_;
  std::ptrdiff_t at_ = 0;
};

// One thread's walk: `before(phase, thread)`, then the phase, then a barrier in which the last to
// come does the phases that are too small to share, while the others ask for what they read next.
template <class Before>
void walk_phases(std::vector<Phase>& phases, const Step& step, int thread, Before before) {
  std::size_t next = 0;
  while (next < phases.size()) {
    if (!phases[next].solo()) {
      before(phases[next], thread);
      phases[next++].run(step, thread);
    }
    const std::size_t first = next;
    while (next < phases.size() && phases[next].solo()) ++next;
    Asking asking(next < phases.size() ? phases[next].upcoming(thread) : Upcoming{});
    step.team.barrier(
        [&] {
          for (std::size_t i = first; i < next; ++i) phases[i].run(step, thread);
        },
        [&] { return asking.more(); });
  }
}

void check_plan(const LinearPlan& plan) {
  constexpr int most = 1 << 20;
  const LinearChoice& kernel = plan.kernel;
  const bool sound = plan.task_rows >= 1 && plan.task_rows <= most && plan.tasks >= 1 &&
                     plan.tasks <= most && kernel.direct_rows >= 1 && kernel.direct_rows <= most &&
                     kernel.prefetch_bytes >= 0 && kernel.prefetch_bytes <= most;
  if (!sound) throw std::invalid_argument("a linear's plan is out of range");
}

}  // namespace

std::size_t Weights::size_bytes() const {
  std::size_t total = 0;
  for (const auto& matrix : matrices) total += matrix->size_bytes();
  for (const auto& vector : vectors) total += vector->size();
  return total;
}

Program::Program(ProgramParts parts)
    : parts_(std::move(parts)), limits_(limits_of(parts_)), buffers_(plan_buffers(parts_.values)) {}

int Program::vocabulary() const { return parts_.values[parts_.output].width; }

Step Program::begin(const Batch& batch, KV& kv, float* logits) {
  if (!kv.fits(parts_.kv_layers, parts_.kv_type)) {
    throw std::invalid_argument("this KV was made for another program: use its own new_kv");
  }
  for (std::size_t kind = 0; kind < limits_.kinds.size(); ++kind) {
    limits_.kinds[kind].page_count = kv.page_counts()[kind];
  }
  check_batch(batch, limits_);
  places_.fill(batch);
  for (int position : places_.position) {
    if (position >= parts_.limits.positions) {
      throw std::invalid_argument("a position is beyond those the model has learned");
    }
  }
  Adapters& adapters = *parts_.adapters;
  adapters.begin(batch, places_);
  buffers_.reserve(batch.rows, batch.logit_count);
  for (auto& plan : parts_.attention_plans) plan->make(batch, places_, threads());
  const Step step{batch,    places_,      kv,     parts_.values,
                  buffers_, *parts_.team, logits, adapters.active() ? &adapters : nullptr};
  for (Phase& phase : parts_.phases) phase.prepare(step);
  return step;
}

void Program::step(const Batch& batch, KV& kv, float* logits) {
  const std::lock_guard lock(mutex_);
  const Step step = begin(batch, kv, logits);
  auto walk = [&](int thread) {
    walk_phases(parts_.phases, step, thread, [](const Phase&, int) {});
  };
  parts_.team->run(walk);
}

void Program::step_timed(const Batch& batch, KV& kv, float* logits,
                         std::vector<std::int64_t>& nanoseconds) {
  const std::lock_guard lock(mutex_);
  const Step step = begin(batch, kv, logits);
  nanoseconds.resize(parts_.node_count);
  std::int64_t last = 0;
  auto lap = [&](int thread, int node) {
    step.team.barrier();
    if (thread != 0) return;
    const std::int64_t now = now_ns();
    nanoseconds[node] += now - last;
    last = now;
  };
  auto walk = [&](int thread) {
    if (thread == 0) last = now_ns();
    for (Phase& phase : parts_.phases) {
      for (const RowOperation& operation : phase.row_operations()) {
        run_share(operation, step, thread);
        lap(thread, operation.node);
      }
      if (phase.team_operation() == nullptr) continue;
      phase.run(step, thread);
      lap(thread, phase.team_operation()->node);
    }
  };
  parts_.team->run(walk);
}

void Program::load_adapter(int slot, const std::vector<SitePart>& parts) {
  const std::lock_guard lock(mutex_);
  parts_.adapters->load(slot, parts);
}

void Program::unload_adapter(int slot) {
  const std::lock_guard lock(mutex_);
  parts_.adapters->unload(slot);
}

std::vector<const LinearOperation*> Program::linears() const {
  std::vector<const LinearOperation*> found;
  for (const Phase& phase : parts_.phases) {
    const auto* linear = dynamic_cast<const LinearOperation*>(phase.team_operation());
    if (linear != nullptr) found.push_back(linear);
  }
  return found;
}

LinearOperation& Program::linear(int node) const {
  for (const LinearOperation* linear : linears()) {
    if (linear->node == node) return *const_cast<LinearOperation*>(linear);
  }
  throw std::invalid_argument("the node is no linear");
}

std::int64_t Program::time_linears(const std::vector<int>& nodes, int rows,
                                   const LinearPlan& plan) {
  check_plan(plan);
  if (rows < 1 || rows > 4096) throw std::invalid_argument("rows must be in 1…4096");
  const std::lock_guard lock(mutex_);
  Batch batch{};
  batch.rows = batch.logit_count = rows;
  buffers_.reserve(rows, rows);
  KV kv({}, parts_.kv_type, {1});  // linears do not look at it
  std::vector<float> logits;
  if (std::any_of(nodes.begin(), nodes.end(),  // also refuses a node that is no linear
                  [this](int node) { return parts_.values[linear(node).writes[0]].in_logits; }))
    logits.resize(std::size_t(rows) * vocabulary());
  const Step step{batch,        places_,       kv,     parts_.values, buffers_,
                  *parts_.team, logits.data(), nullptr};
  const auto which = LinearOperation::class_of(rows);
  std::int64_t total = 0;
  auto walk = [&](int thread) {
    for (const int node : nodes) {
      LinearOperation& operation = linear(node);
      const LinearPlan before = operation.plan(which);
      if (thread == 0) {
        operation.fill_input(step);
        operation.set_plan(which, plan);
        operation.prepare(step);
      }
      step.team.barrier();
      step.team.barrier();  // now nobody is still waking up
      const std::int64_t start = now_ns();
      operation.run(step, thread);
      step.team.barrier();
      if (thread == 0) {
        total += now_ns() - start;
        operation.set_plan(which, before);
      }
    }
  };
  parts_.team->run(walk);
  return total;
}

void Program::plan_linears(const std::vector<int>& nodes, RowClass rows, const LinearPlan& plan) {
  check_plan(plan);
  const std::lock_guard lock(mutex_);
  for (const int node : nodes) linear(node).set_plan(rows, plan);
}

const Value& Program::input_of(int node) const {
  for (const Phase& phase : parts_.phases) {
    const TeamOperation* operation = phase.team_operation();
    if (operation != nullptr && operation->node == node && operation->captured >= 0) {
      return parts_.values[operation->captured];
    }
  }
  throw std::invalid_argument("only the inputs of linears can be captured");
}

void Program::step_captured(const Batch& batch, KV& kv, float* logits,
                            const std::vector<Capture>& captures) {
  const std::lock_guard lock(mutex_);
  const Step step = begin(batch, kv, logits);
  auto capture = [&](const Phase& phase, int thread) {
    const TeamOperation* operation = phase.team_operation();
    if (thread != 0 || operation == nullptr || operation->captured < 0) return;
    for (const Capture& wanted : captures) {
      if (wanted.node == operation->node) copy_rows(step, operation->captured, wanted.data);
    }
  };
  auto walk = [&](int thread) { walk_phases(parts_.phases, step, thread, capture); };
  parts_.team->run(walk);
}

}  // namespace slipstream
