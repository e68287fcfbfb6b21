// Linear layers on all threads: the work is cut into rows × panels of 16 outputs.
#pragma once

#include <string>
#include <vector>

#include "kernels/linear.h"
#include "step/adapters.h"
#include "step/operation.h"

namespace slipstream {

// One matrix of a (fused) linear, or the gate and up of a gated one, and the value it writes.
struct LinearPart {
  const PackedMatrix* matrix;
  const PackedMatrix* up = nullptr;  // set: activation(x · matrix) · (x · up)
  const float* bias = nullptr;
  Activation kind = Activation::silu;
  int out = -1;
};

// How a linear is computed and cut into tasks: see LinearChoice. Tasks are for evening out a
// disturbed core; each prepares its rows anew.
struct LinearPlan {
  LinearChoice kernel;
  int task_rows = 128;  // of a task: their rounded inputs and outputs stay in the second cache
  int tasks = 8;        // for each thread
};

// Steps of few rows read memory, steps of many compute; each has a plan of its own.
enum class RowClass { few, some, many };
constexpr int kRowClasses = 3;

// Where a linear finds its input: the float value, and its rows rounded to 8 or 16 `bits` (int8,
// bfloat16) when `rounded` is set.
struct LinearSource {
  int values;
  int rounded = -1;
  int bits = 32;
  std::int64_t inputs = 0;
  std::int64_t group = 0;      // of the rounding; 0: the whole row
  std::int64_t sum_group = 0;  // see ActivationBlock
  float scale = 0.0f;          // fixed for all rows; 0: found for each group

  ActivationBlock block(const Step& step) const;  // of int8
  std::int64_t inputs_padded() const {
    return (inputs + kInputPadding - 1) / kInputPadding * kInputPadding;
  }
  // Rounds the rows of this step.
  void round(const Step& step, const LinearKernels& kernels, Range rows) const;
  // What kernels read; `block` is filled, and must live as long, where the input is int8.
  LinearInput input(const Step& step, ActivationBlock& block) const;
};

// What adapters add to a linear: of its parts in order, the gate before the up.
struct LinearSites {
  SiteRange range;
  const AdapterKernels* kernels;
};

// Multiplies rows that have an adapter by its A; the linear that follows multiplies by its B.
RowOperation shrink(int node, Domain domain, int values, const LinearSites& sites);

// Rounds rows of `source.values` into `source.rounded`.
RowOperation round_input(int node, Domain domain, const LinearSource& source,
                         const LinearKernels& kernels);

class LinearOperation : public TeamOperation {
 public:
  LinearOperation(int node, Domain domain, LinearSource source, std::vector<LinearPart> parts,
                  const LinearSites& sites, const LinearKernels& kernels, int threads);

  const LinearSource& source() const { return source_; }
  Domain domain() const { return domain_; }

  void prepare(const Step& step) override;
  void run(const Step& step, int thread) override;
  Upcoming upcoming(int thread) const override;

  const LinearPlan& plan(RowClass rows) const { return plans_[static_cast<int>(rows)]; }
  void set_plan(RowClass rows, const LinearPlan& plan) { plans_[static_cast<int>(rows)] = plan; }
  static RowClass class_of(std::int64_t rows);
  // Inputs, outputs, formats, group of the activations: linears of one shape take equally long.
  std::string shape() const;
  std::size_t size_bytes() const;  // of its matrices
  // Gives the input of every row of the step some finite values, and rounds them.
  void fill_input(const Step& step) const;

 private:
  struct Task {
    const LinearPart* part;
    Part range;
  };
  Task task(int index, int rows) const;
  void multiply(const Step& step, const LinearInput& input, const Task& work, int thread);
  void multiply_adapted(const Step& step, const LinearInput& input, const Task& work, int thread);
  // Adds to y, whose rows and outputs begin where the range does.
  void add_adapters(const Step& step, int i, const Part& range, const Rows<float>& y) const;

  Domain domain_;
  LinearSource source_;
  std::vector<LinearPart> parts_;
  LinearSites sites_;
  const LinearKernels& kernels_;
  LinearPlan plans_[kRowClasses];
  LinearChoice choice_;  // of this step
  SharedRuns tasks_;
  std::vector<Scratch> scratch_;  // [threads]
  std::vector<Scratch> halves_;   // [threads] gate and up of rows that have adapters
  std::int64_t panels_ = 0;       // of all parts
  std::int64_t panel_chunk_ = 1;
  std::int64_t row_chunk_ = 1;
  std::vector<int> chunk_starts_;  // [parts + 1] the first panel chunk of each part
};

}  // namespace slipstream
