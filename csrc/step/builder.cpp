#include "step/builder.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace slipstream {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

constexpr std::int64_t kMostWidth = std::int64_t{1} << 24;

}  // namespace

ProgramBuilder::ProgramBuilder(int threads, Isa isa, KVType kv_type)
    : adapter_(adapter_kernels(isa)),
      attention_(attention_kernels(isa)),
      elementwise_(elementwise_kernels(isa)),
      linear_(linear_kernels(isa)),
      norm_(norm_kernels(isa)),
      rotary_(rotary_kernels(isa)) {
  parts_.team = std::make_unique<Team>(threads);
  parts_.adapters = std::make_unique<Adapters>();
  parts_.kv_type = kv_type;
  parts_.limits.positions = std::numeric_limits<int>::max();
  parts_.node_count = 0;
}

void ProgramBuilder::require_open() const {
  require(parts_.team != nullptr, "this builder has been finished");
}

int ProgramBuilder::add_matrix(const SourceMatrix& source) {
  require_open();
  require(source.outputs > 0 && source.inputs > 0, "a matrix must not be empty");
  require(source.outputs <= kMostWidth && source.inputs <= kMostWidth, "a matrix is too large");
  auto packed =
      std::make_shared<PackedMatrix>(format_of(source), source.outputs, source.inputs, &arena_);
  WorkQueue queue;
  constexpr std::int64_t kPanels = 8;  // taken at once
  auto work = [&](int) {
    while (true) {
      const std::int64_t begin = queue.take() * kPanels;
      if (begin >= packed->panels()) return;
      pack(source, *packed, {begin, std::min(begin + kPanels, packed->panels())});
    }
  };
  parts_.team->run(work);
  parts_.weights.matrices.push_back(std::move(packed));
  return static_cast<int>(parts_.weights.matrices.size()) - 1;
}

int ProgramBuilder::add_packed(PackedMatrix matrix) {
  require_open();
  require(matrix.outputs() <= kMostWidth, "a matrix is too large");
  parts_.weights.matrices.push_back(std::make_shared<const PackedMatrix>(std::move(matrix)));
  return static_cast<int>(parts_.weights.matrices.size()) - 1;
}

std::shared_ptr<const PackedMatrix> ProgramBuilder::packed(int id) const {
  require_open();
  matrix(id);
  return parts_.weights.matrices[id];
}

int ProgramBuilder::add_vector(const float* values, std::int64_t count) {
  require_open();
  require(count > 0 && count <= kMostWidth, "a vector must not be empty, nor absurdly long");
  auto memory = std::make_unique<AlignedBuffer>(sizeof(float) * count);
  std::memcpy(memory->data(), values, sizeof(float) * count);
  parts_.weights.vectors.push_back(std::move(memory));
  vector_widths_.push_back(count);
  return static_cast<int>(vector_widths_.size()) - 1;
}

void ProgramBuilder::begin_node(int node) {
  require_open();
  require(node >= 0 && node < 1 << 24, "a node's number must not be negative");
  node_ = node;
  parts_.node_count = std::max(parts_.node_count, node + 1);
}

const Value& ProgramBuilder::value(int id) const {
  require(id >= 0 && id < static_cast<int>(parts_.values.size()), "no such value");
  return parts_.values[id];
}

const PackedMatrix& ProgramBuilder::matrix(int id) const {
  require(id >= 0 && id < static_cast<int>(parts_.weights.matrices.size()), "no such matrix");
  return *parts_.weights.matrices[id];
}

const float* ProgramBuilder::vector(int id, std::int64_t width) const {
  require(id >= 0 && id < static_cast<int>(vector_widths_.size()), "no such vector");
  require(vector_widths_[id] == width, "a vector of " + std::to_string(vector_widths_[id]) +
                                           " meets a width of " + std::to_string(width));
  return reinterpret_cast<const float*>(parts_.weights.vectors[id]->data());
}

Domain ProgramBuilder::same_shape(int a, int b) const {
  require(value(a).width == value(b).width && value(a).domain == value(b).domain,
          "two values differ in shape");
  return value(a).domain;
}

int ProgramBuilder::new_value(Domain domain, std::int64_t width, std::size_t element_bytes) {
  require(width > 0 && width <= kMostWidth, "a value is too wide");
  const std::size_t bytes = static_cast<std::size_t>(width) * element_bytes;
  Value value{};
  value.domain = domain;
  value.width = static_cast<int>(width);
  value.row_bytes = (bytes + 63) / 64 * 64;
  value.first_phase = value.last_phase = -1;
  parts_.values.push_back(value);
  return static_cast<int>(parts_.values.size()) - 1;
}

void ProgramBuilder::push(RowOperation operation) {
  require(node_ >= 0, "begin a node before its operations");
  auto& phases = parts_.phases;
  if (phases.empty() || !phases.back().accepts(operation)) {
    phases.emplace_back(std::move(operation));
  } else {
    phases.back().append(std::move(operation));
  }
  mark(*phases.back().operations().back());
}

void ProgramBuilder::push(std::unique_ptr<TeamOperation> operation) {
  require(node_ >= 0, "begin a node before its operations");
  parts_.phases.emplace_back(std::move(operation));
  mark(*parts_.phases.back().team_operation());
}

// A value lives from the phase that writes it to the last that reads it, both included: rows of one
// phase are walked by several threads at different speeds.
void ProgramBuilder::mark(const Operation& operation) {
  const int phase = static_cast<int>(parts_.phases.size()) - 1;
  for (int id : operation.writes) parts_.values[id].first_phase = phase;
  for (int id : operation.writes) parts_.values[id].last_phase = phase;
  for (int id : operation.reads) parts_.values[id].last_phase = phase;
  for (int id : operation.reads) ++parts_.values[id].reads;
}

// The result lies in the caller's array. If it is made element by element from a value that nothing
// else reads (capped logits), so does that value, and is overwritten in place.
void ProgramBuilder::place_output(int output) {
  parts_.values[output].in_logits = true;
  const Operation& last = *parts_.phases.back().operations().back();
  const bool in_place = parts_.phases.back().team_operation() == nullptr &&
                        last.writes == std::vector<int>{output} && last.reads.size() == 1;
  if (!in_place) return;
  Value& source = parts_.values[last.reads[0]];
  const Value& result = parts_.values[output];
  const bool same = source.width == result.width && source.domain == result.domain;
  if (same && source.reads == 1) source.in_logits = true;
}

std::unique_ptr<Program> ProgramBuilder::finish(int output, int vocabulary) {
  require(value(output).domain == Domain::selected, "the logits must be of selected rows");
  require(vocabulary > 0 && vocabulary <= embedded_, "more token ids than embeddings");
  parts_.output = output;
  place_output(output);
  parts_.limits.vocabulary = vocabulary;
  return std::make_unique<Program>(std::move(parts_));
}

}  // namespace slipstream
