// Values that live together never overlap; values that do not share memory.

#include "step/buffers.h"

#include <random>

#include "tests/claims.h"

using slipstream::BufferPlan;
using slipstream::Domain;
using slipstream::Value;

static Value value(int width, int first, int last, Domain domain = Domain::rows) {
  Value made{};
  made.domain = domain;
  made.width = width;
  made.row_bytes = static_cast<std::size_t>(width) * 64;
  made.first_phase = first;
  made.last_phase = last;
  return made;
}

static bool overlap(const Value& a, const Value& b) {
  return a.offset < b.offset + b.row_bytes && b.offset < a.offset + a.row_bytes;
}

static bool together(const Value& a, const Value& b) {
  return a.domain == b.domain && a.first_phase <= b.last_phase && b.first_phase <= a.last_phase;
}

static void a_chain_needs_two_places() {
  std::vector<Value> values;
  for (int i = 0; i < 20; ++i) values.push_back(value(1, i, i + 1));
  CLAIM(plan_buffers(values).row_bytes[0] == 2 * 64);
}

static void random_lives_never_overlap() {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<Value> values;
    for (int i = 0; i < 40; ++i) {
      const int first = random() % 50;
      values.push_back(value(1 + random() % 9, first, first + random() % 12,
                             random() % 4 ? Domain::rows : Domain::selected));
    }
    plan_buffers(values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        CLAIM(!together(values[i], values[j]) || !overlap(values[i], values[j]));
      }
    }
  }
}

static void unused_values_take_nothing() {
  std::vector<Value> values = {value(5, -1, -1)};
  CLAIM(plan_buffers(values).row_bytes[0] == 0);
}

int main() {
  a_chain_needs_two_places();
  random_lives_never_overlap();
  unused_values_take_nothing();
  return failed_claims;
}
