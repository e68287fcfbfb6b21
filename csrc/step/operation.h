// One native operation of a step, in two kinds.
//
// A RowOperation computes each row by itself; several in a row (norm, then the rounding of its
// result; rotary, then the writing of keys) are walked together over small chunks of rows, without
// a barrier between. A TeamOperation divides its work among the threads as it likes.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "step/batch.h"
#include "step/buffers.h"
#include "step/kv.h"
#include "step/team.h"

namespace slipstream {

class Adapters;  // step/adapters.h

// Everything that an operation sees of the step it runs in.
struct Step {
  const Batch& batch;
  const RowPlaces& places;
  KV& kv;
  const std::vector<Value>& values;
  Buffers& buffers;
  Team& team;
  float* logits;       // the caller's array that takes the result, dense
  Adapters* adapters;  // null unless a row of the batch has one

  int rows_in(Domain domain) const {
    return domain == Domain::rows ? batch.rows : batch.logit_count;
  }
};

// A value of float32 or other elements, one row after the other.
template <class T>
struct Rows {
  T* data;
  std::ptrdiff_t stride;  // in elements

  T* operator[](std::ptrdiff_t row) const { return data + row * stride; }
};

// What one native operation does with its operands, and the graph's node that it is a part of.
struct Operation {
  int node;
  std::vector<int> reads;
  std::vector<int> writes;
};

// Rows row_begin … row_end - 1 of the result, from the same rows of the operands.
using RowWork = std::function<void(const Step& step, int row_begin, int row_end)>;

struct RowOperation : Operation {
  Domain domain;
  RowWork work;
  bool crosses_rows = false;  // a row of the result reads other rows of the operands (Select)
  bool of_adapters = false;   // has nothing to do unless the step has adapters
};

// Memory that is worth asking for while a thread waits for others.
struct Upcoming {
  const std::byte* streams[2] = {nullptr, nullptr};
  std::ptrdiff_t size = 0;  // bytes of each
};

struct TeamOperation : Operation {
  int captured = -1;  // the float input that `capture` copies, of a linear

  virtual ~TeamOperation() = default;
  // Called by one thread before the step: plans how the work is divided.
  virtual void prepare(const Step& step) = 0;
  virtual void run(const Step& step, int thread) = 0;
  // What `run` of this thread will read first, of what does not change in a step: weights.
  virtual Upcoming upcoming(int) const { return {}; }
};

// The rows of value `id` as T. Rows of the planned buffers begin at multiples of 64 bytes; those of
// the caller's logits are dense, so that nothing may be written past a row's width.
template <class T = float>
Rows<T> rows_of(const Step& step, int id) {
  const Value& value = step.values[id];
  if (value.in_logits) return {reinterpret_cast<T*>(step.logits), value.width};
  return {reinterpret_cast<T*>(step.buffers.at(value)),
          static_cast<std::ptrdiff_t>(value.row_bytes / sizeof(T))};
}

}  // namespace slipstream
