// Attention over the pages of a layer, on all threads.
#pragma once

#include <memory>
#include <vector>

#include "isa/memory.h"
#include "kernels/attention.h"
#include "step/attention_plan.h"
#include "step/operation.h"

namespace slipstream {

struct AttentionOptions {
  int layer;
  int kind;  // whose pages it reads and writes: see KVLayer
  AttentionShape shape;
  const AttentionKernels* kernels;
  std::shared_ptr<AttentionPlan> plan;  // shared by the layers that have the same heads and window
};

class AttentionOperation : public TeamOperation {
 public:
  // queries and out are values [rows][heads · head_dim].
  AttentionOperation(int node, int queries, int out, AttentionOptions options, int threads);

  void prepare(const Step& step) override;
  void run(const Step& step, int thread) override;

 private:
  void attend_whole(const Step& step, const AttentionTask& task, Scratch& scratch);
  void attend_split(const Step& step, const AttentionTask& task, Scratch& scratch);
  void join_split(const HeadPages& pages, QueryBlock& block, int split, float* states,
                  float* next) const;
  void merge_row(const Step& step, int row);
  HeadPages pages_of(const Step& step, const AttentionTask& task) const;
  QueryBlock block_of(const Step& step, const AttentionTask& task, int start,
                      const float* prepared) const;
  const float* prepare_queries(const Step& step, const AttentionTask& task, float* room) const;
  std::size_t prepared_floats(const AttentionTask& task) const;

  AttentionOptions options_;
  int queries_;
  int out_;
  int state_size_;
  WorkQueue tasks_;
  WorkQueue rows_;
  std::vector<Scratch> scratch_;   // [threads] states of one task's queries, and the queries
  float* split_states_ = nullptr;  // of all rows, heads and splits, when the plan is by split
};

// Writes keys and values [rows][kv_heads · head_dim] into the pages of their positions.
RowOperation write_kv(int node, int keys, int values, const AttentionOptions& options);

}  // namespace slipstream
