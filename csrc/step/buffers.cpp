#include "step/buffers.h"

#include <algorithm>

namespace slipstream {
namespace {

bool alive_together(const Value& a, const Value& b) {
  return a.domain == b.domain && a.first_phase <= b.last_phase && b.first_phase <= a.last_phase;
}

// The lowest offset where `value` overlaps none of the placed values that live when it does.
std::size_t lowest_offset(const Value& value, const std::vector<const Value*>& placed) {
  std::vector<const Value*> rivals;
  for (const Value* other : placed) {
    if (alive_together(value, *other)) rivals.push_back(other);
  }
  std::sort(rivals.begin(), rivals.end(),
            [](const Value* a, const Value* b) { return a->offset < b->offset; });
  std::size_t offset = 0;
  for (const Value* rival : rivals) {
    if (offset + value.row_bytes <= rival->offset) break;
    offset = std::max(offset, rival->offset + rival->row_bytes);
  }
  return offset;
}

}  // namespace

BufferPlan plan_buffers(std::vector<Value>& values) {
  BufferPlan plan;
  std::vector<Value*> order;
  for (Value& value : values) {
    if (value.first_phase >= 0 && !value.in_logits) order.push_back(&value);
  }
  // The widest first: the narrow ones then fit into the gaps.
  std::stable_sort(order.begin(), order.end(),
                   [](const Value* a, const Value* b) { return a->row_bytes > b->row_bytes; });
  std::vector<const Value*> placed;
  for (Value* value : order) {
    value->offset = lowest_offset(*value, placed);
    placed.push_back(value);
    std::size_t& top = plan.row_bytes[static_cast<int>(value->domain)];
    top = std::max(top, value->offset + value->row_bytes);
  }
  return plan;
}

void Buffers::reserve(int rows, int selected) {
  const int wanted[2] = {rows, selected};
  for (int domain = 0; domain < 2; ++domain) {
    if (wanted[domain] <= capacity_[domain]) continue;
    capacity_[domain] = std::max(wanted[domain], 16);
    memory_[domain] = AlignedBuffer(plan_.row_bytes[domain] * capacity_[domain]);
  }
}

std::byte* Buffers::at(const Value& value) {
  const int domain = static_cast<int>(value.domain);
  return memory_[domain].data() + value.offset * capacity_[domain];
}

}  // namespace slipstream
