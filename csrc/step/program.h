// A compiled model: a flat list of phases over planned buffers, walked by the team once per step.
//
//   begin: check the batch, place its rows, make room, plan the attention
//   every thread: for each phase: run, barrier
//
// A steady-state step (no larger than two before it) allocates nothing:
// csrc/tests/test_allocations.cpp counts.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/pack.h"
#include "step/adapters.h"
#include "step/attention_plan.h"
#include "step/linear_operation.h"
#include "step/phase.h"

namespace slipstream {

// What a program keeps alive for its operations.
struct Weights {
  std::vector<std::shared_ptr<const PackedMatrix>> matrices;
  std::vector<std::unique_ptr<AlignedBuffer>> vectors;

  std::size_t size_bytes() const;
};

struct ProgramLimits {
  int vocabulary;  // token ids below it
  int positions;   // positions below it (learned positions), or the largest int
};

struct ProgramParts {
  std::unique_ptr<Team> team;
  Weights weights;
  std::vector<Value> values;
  std::vector<Phase> phases;
  std::vector<std::shared_ptr<AttentionPlan>> attention_plans;
  std::unique_ptr<Adapters> adapters;
  std::vector<KVLayer> kv_layers;
  std::vector<int> windows;  // of each kind of attention: positions a row sees, 0: all before it
  KVType kv_type;
  ProgramLimits limits;
  int node_count;
  int output;
};

// A copy of a linear's float input, [rows of its domain][inputs]. The caller owns `data`.
struct Capture {
  int node;
  float* data;
};

class Program {
 public:
  explicit Program(ProgramParts parts);

  int threads() const { return parts_.team->size(); }
  int vocabulary() const;  // the width of the logits
  std::size_t resident_bytes() const { return parts_.weights.size_bytes(); }
  // page_counts: for each kind of attention.
  KV new_kv(const std::vector<int>& page_counts) const {
    return KV(parts_.kv_layers, parts_.kv_type, page_counts);
  }

  // Writes float32 [logit_count][vocabulary] to `logits`. std::invalid_argument for a batch out of
  // range or a KV of another program's shape. One step at a time; others wait.
  void step(const Batch& batch, KV& kv, float* logits);
  // The same; nanoseconds[node] += what each node took on the calling thread.
  void step_timed(const Batch& batch, KV& kv, float* logits,
                  std::vector<std::int64_t>& nanoseconds);
  // The same; fills the captures.
  void step_captured(const Batch& batch, KV& kv, float* logits,
                     const std::vector<Capture>& captures);
  // See Adapters; between steps, so it waits for one that runs.
  void load_adapter(int slot, const std::vector<SitePart>& parts);
  void unload_adapter(int slot);
  std::size_t adapter_bytes() const { return parts_.adapters->size_bytes(); }
  const std::vector<AdapterSite>& adapter_sites() const { return parts_.adapters->sites(); }

  // What can be timed: a linear of each node that has one.
  std::vector<const LinearOperation*> linears() const;
  // Nanoseconds that the linears of `nodes` take with `plan`, one after the other, for `rows` rows
  // of made-up input. Between steps, so it waits for one that runs.
  std::int64_t time_linears(const std::vector<int>& nodes, int rows, const LinearPlan& plan);
  // From the next step on.
  void plan_linears(const std::vector<int>& nodes, RowClass rows, const LinearPlan& plan);

  // The float input of linear `node`; std::invalid_argument if it is none.
  const Value& input_of(int node) const;

 private:
  LinearOperation& linear(int node) const;  // std::invalid_argument if it is none
  Step begin(const Batch& batch, KV& kv, float* logits);

  ProgramParts parts_;
  BatchLimits limits_;
  Buffers buffers_;
  RowPlaces places_;
  std::mutex mutex_;
};

}  // namespace slipstream
