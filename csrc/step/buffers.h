// Plans where the values of a step live: those that are never alive together share memory.
//
// Every value belongs to a domain (all rows of the batch, or the rows whose logits are wanted) and
// takes a fixed number of bytes per row, so that one plan serves every batch size.
#pragma once

#include <cstddef>
#include <vector>

#include "isa/memory.h"

namespace slipstream {

enum class Domain { rows, selected };

struct Value {
  Domain domain;
  int width;               // elements of a row
  std::size_t row_bytes;   // a multiple of 64
  int first_phase = -1;    // written first
  int last_phase = -1;     // read last; phases are walked in order, with a barrier between
  int reads = 0;           // operations that read it
  bool in_logits = false;  // lies in the caller's array, not in the plan
  std::size_t offset = 0;  // in bytes per row of the domain, set by `plan_buffers`
};

// Sets the offset of each value that has phases and no other place; returns the bytes per row that
// each domain needs.
struct BufferPlan {
  std::size_t row_bytes[2] = {0, 0};
};
BufferPlan plan_buffers(std::vector<Value>& values);

// The memory of a plan, grown to the largest batch seen and then kept.
class Buffers {
 public:
  explicit Buffers(BufferPlan plan = {}) : plan_(plan) {}

  // Makes room for so many rows in each domain; allocates only when that is more than before.
  void reserve(int rows, int selected);
  std::byte* at(const Value& value);

 private:
  BufferPlan plan_;
  AlignedBuffer memory_[2];
  int capacity_[2] = {0, 0};
};

}  // namespace slipstream
