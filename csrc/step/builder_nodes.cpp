// One method of ProgramBuilder for each kind of node: checks, new values, native operations.

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "step/attention_operation.h"
#include "step/builder.h"

namespace slipstream {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

}  // namespace

int ProgramBuilder::embed(int matrix_id, float factor) {
  const PackedMatrix& table = matrix(matrix_id);
  const int out = new_value(Domain::rows, table.inputs());
  embedded_ = std::min<std::int64_t>(embedded_, table.outputs());
  push(slipstream::embed(place(Domain::rows), table, factor, out, linear_, elementwise_));
  return out;
}

int ProgramBuilder::position_embed(int x, int matrix_id, int offset) {
  const PackedMatrix& table = matrix(matrix_id);
  require(value(x).domain == Domain::rows, "positions are embedded before rows are selected");
  require(value(x).width == table.inputs(), "a position embedding of another width");
  require(offset >= 0 && offset < table.outputs(), "a position offset outside the table");
  parts_.limits.positions =
      std::min<std::int64_t>(parts_.limits.positions, table.outputs() - offset);
  const int out = new_value(Domain::rows, value(x).width);
  push(slipstream::position_embed(place(Domain::rows), table, offset, x, out, linear_,
                                  elementwise_));
  return out;
}

NormShape ProgramBuilder::norm_shape(int x, const NormSpec& spec) const {
  const int width = value(x).width;
  require(spec.heads > 0 && width % spec.heads == 0, "a norm's heads must divide its width");
  require(spec.epsilon >= 0.0f, "a norm's epsilon must not be negative");
  const int piece = width / spec.heads;
  const float* biases = spec.biases < 0 ? nullptr : vector(spec.biases, piece);
  require(spec.layer || biases == nullptr, "an rms norm has no bias");
  return {spec.layer, spec.heads, piece, spec.epsilon, vector(spec.weights, piece), biases};
}

int ProgramBuilder::norm(int x, const NormSpec& spec) {
  const NormShape shape = norm_shape(x, spec);
  const Domain domain = value(x).domain;
  const int out = new_value(domain, value(x).width);
  push(slipstream::norm(place(domain), shape, x, out, norm_));
  return out;
}

std::pair<int, int> ProgramBuilder::add_norm(int residual, int delta, const NormSpec& spec) {
  const Domain domain = same_shape(residual, delta);
  require(spec.heads == 1, "a fused norm is of the whole row");
  const NormShape shape = norm_shape(residual, spec);
  const int sum = new_value(domain, value(residual).width);
  const int out = new_value(domain, value(residual).width);
  push(slipstream::add_norm(place(domain), shape, residual, delta, sum, out, norm_));
  return {sum, out};
}

// The input of a linear, with the rounding of its rows appended to the program if they are not
// there yet.
LinearSource ProgramBuilder::source(int x, const std::vector<const PackedMatrix*>& matrices,
                                    const ActivationSpec& spec) {
  LinearSource source{x};
  source.inputs = value(x).width;
  for (const PackedMatrix* matrix : matrices) {
    require(matrix->inputs() == source.inputs, "a matrix of " + std::to_string(matrix->inputs()) +
                                                   " inputs meets a width of " +
                                                   std::to_string(source.inputs));
  }
  require(spec.bits == 8 || spec.bits == 16 || spec.bits == 32,
          "activations have 8, 16 or 32 bits");
  source.bits = spec.bits;
  if (spec.bits == 8) group_input(source, matrices, spec);
  for (const PackedMatrix* matrix : matrices) {
    require(spec.bits != 16 || matrix->format().codes == CodeFormat::bf16,
            "bfloat16 inputs meet weights of bfloat16 only");
  }
  if (spec.bits != 32) add_rounding(source);
  return source;
}

// How int8 inputs of these matrices share scales and sums.
void ProgramBuilder::group_input(LinearSource& source,
                                 const std::vector<const PackedMatrix*>& matrices,
                                 const ActivationSpec& spec) {
  require(std::isfinite(spec.scale) && spec.scale >= 0.0f, "a fixed scale is a positive number");
  require(spec.scale == 0.0f || spec.group == 0, "a fixed scale is of the whole row");
  source.group = spec.group;
  source.scale = spec.scale;
  for (const PackedMatrix* matrix : matrices) {
    const std::int64_t merged = merge_group(*matrix, spec.group);
    source.sum_group = source.sum_group == 0 ? merged : std::min(source.sum_group, merged);
  }
  for (const PackedMatrix* matrix : matrices) {
    require(merge_group(*matrix, spec.group) % source.sum_group == 0,
            "the groups of fused matrices must divide each other");
  }
}

// Finds the rounded rows of this input, or appends the rounding.
void ProgramBuilder::add_rounding(LinearSource& source) {
  const Domain domain = value(source.values).domain;
  const auto key =
      std::make_tuple(source.values, source.bits, source.group, source.sum_group, source.scale);
  const auto found = rounded_.find(key);
  if (found != rounded_.end()) {
    source.rounded = found->second;
    return;
  }
  if (source.bits == 16) {
    source.rounded = new_value(domain, source.inputs_padded(), 2);
  } else {
    const std::size_t bytes =
        ActivationBlock::size_bytes(1, source.inputs, source.group, source.sum_group);
    source.rounded = new_value(domain, static_cast<std::int64_t>(bytes), 1);
  }
  rounded_[key] = source.rounded;
  push(round_input(node_, domain, source, linear_));
}

// Numbers the matrices of a linear for adapters, and appends what they do to its input.
LinearSites ProgramBuilder::sites(int x, Domain domain,
                                  const std::vector<const PackedMatrix*>& matrices) {
  std::vector<AdapterSite> shapes;
  for (const PackedMatrix* matrix : matrices)
    shapes.push_back({matrix->inputs(), matrix->outputs()});
  const LinearSites sites{parts_.adapters->add_sites(shapes), &adapter_};
  push(shrink(node_, domain, x, sites));
  return sites;
}

std::vector<int> ProgramBuilder::linear(int x, const std::vector<MatrixUse>& uses,
                                        const ActivationSpec& spec) {
  require(!uses.empty(), "a linear needs a matrix");
  std::vector<const PackedMatrix*> matrices;
  for (const MatrixUse& use : uses) matrices.push_back(&matrix(use.matrix));
  const Domain domain = value(x).domain;
  const LinearSource from = source(x, matrices, spec);
  const LinearSites adapted = sites(x, domain, matrices);
  std::vector<LinearPart> parts;
  std::vector<int> outs;
  for (const MatrixUse& use : uses) {
    LinearPart part{&matrix(use.matrix)};
    if (use.bias >= 0) part.bias = vector(use.bias, part.matrix->outputs());
    part.out = new_value(domain, part.matrix->outputs());
    outs.push_back(part.out);
    parts.push_back(part);
  }
  push(std::make_unique<LinearOperation>(node_, domain, from, std::move(parts), adapted, linear_,
                                         parts_.team->size()));
  return outs;
}

int ProgramBuilder::gated_linear(int x, int gate, int up, Activation kind,
                                 const ActivationSpec& spec) {
  require(matrix(gate).outputs() == matrix(up).outputs(), "gate and up differ in outputs");
  const Domain domain = value(x).domain;
  const LinearSource from = source(x, {&matrix(gate), &matrix(up)}, spec);
  const LinearSites adapted = sites(x, domain, {&matrix(gate), &matrix(up)});
  LinearPart part{&matrix(gate)};
  part.up = &matrix(up);
  part.kind = kind;
  part.out = new_value(domain, part.matrix->outputs());
  push(std::make_unique<LinearOperation>(node_, domain, from, std::vector<LinearPart>{part},
                                         adapted, linear_, parts_.team->size()));
  return part.out;
}

std::shared_ptr<const RotaryTable> ProgramBuilder::rotary_table(const RotarySpec& spec) {
  auto& table = tables_[{spec.frequencies, spec.factor}];
  if (table == nullptr) {
    const auto width = static_cast<std::int64_t>(2 * spec.frequencies.size());
    const int id = new_value(Domain::rows, width);
    table = std::make_shared<RotaryTable>(RotaryTable{spec.frequencies, spec.factor, id});
    push(fill_rotary_table(place(Domain::rows), table));
  }
  return table;
}

int ProgramBuilder::rotary(int x, const RotarySpec& spec) {
  const auto pairs = static_cast<int>(spec.frequencies.size());
  require(value(x).domain == Domain::rows, "rotary embedding comes before rows are selected");
  require(spec.heads > 0 && spec.head_dim > 0 &&
              std::int64_t{spec.heads} * spec.head_dim == value(x).width,
          "rotary heads do not make up the width");
  require(pairs > 0 && 2 * pairs <= spec.head_dim, "more rotary frequencies than pairs in a head");
  const auto table = rotary_table(spec);
  const int out = new_value(Domain::rows, value(x).width);
  push(rotate(place(Domain::rows), table, {spec.heads, spec.head_dim, pairs}, x, out, rotary_));
  return out;
}

std::shared_ptr<AttentionPlan> ProgramBuilder::attention_plan(const AttentionHeads& heads) {
  for (const auto& plan : parts_.attention_plans) {
    if (plan->heads() == heads) return plan;
  }
  parts_.attention_plans.push_back(std::make_shared<AttentionPlan>(heads));
  return parts_.attention_plans.back();
}

int ProgramBuilder::attention_kind(int window) {
  std::vector<int>& windows = parts_.windows;
  const auto known = std::find(windows.begin(), windows.end(), window);
  if (known == windows.end()) {
    windows.push_back(window);
    return static_cast<int>(windows.size()) - 1;
  }
  return static_cast<int>(known - windows.begin());
}

int ProgramBuilder::attention(int queries, int keys, int values, const AttentionSpec& spec) {
  require(spec.heads > 0 && spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0,
          "query heads must be a multiple of key/value heads");
  require(spec.head_dim > 0 && spec.window >= 0 && spec.soft_cap >= 0.0f,
          "an attention with a negative size");
  require(spec.scale > 0.0f, "the scale of an attention must be above zero");
  require(!needs_preparing(parts_.kv_type) || spec.head_dim <= kWidest,
          "heads this wide are not stored as codes");
  require(value(queries).width == std::int64_t{spec.heads} * spec.head_dim &&
              value(keys).width == std::int64_t{spec.kv_heads} * spec.head_dim &&
              value(values).width == value(keys).width,
          "attention heads do not make up the widths");
  for (int id : {queries, keys, values}) {
    require(value(id).domain == Domain::rows, "attention comes before rows are selected");
  }
  AttentionOptions options;
  options.layer = static_cast<int>(parts_.kv_layers.size());
  options.kind = attention_kind(spec.window);
  options.shape = {spec.head_dim, spec.scale, spec.soft_cap, parts_.kv_type};
  options.kernels = &attention_;
  options.plan = attention_plan({spec.kv_heads, spec.heads / spec.kv_heads, spec.window});
  parts_.kv_layers.push_back({spec.kv_heads, spec.head_dim, options.kind});
  push(write_kv(node_, keys, values, options));
  const int out = new_value(Domain::rows, value(queries).width);
  push(std::make_unique<AttentionOperation>(node_, queries, out, options, parts_.team->size()));
  return out;
}

int ProgramBuilder::activate(int x, Activation kind) {
  const Domain domain = value(x).domain;
  const int out = new_value(domain, value(x).width);
  push(slipstream::activate(place(domain), kind, x, out, linear_));
  return out;
}

int ProgramBuilder::gate(int gate, int up, Activation kind) {
  const Domain domain = same_shape(gate, up);
  const int out = new_value(domain, value(up).width);
  push(slipstream::gate(place(domain), kind, gate, up, out, linear_));
  return out;
}

int ProgramBuilder::add(int a, int b) {
  const Domain domain = same_shape(a, b);
  const int out = new_value(domain, value(a).width);
  push(slipstream::add(place(domain), a, b, out, elementwise_));
  return out;
}

int ProgramBuilder::scale(int x, float factor) {
  const Domain domain = value(x).domain;
  const int out = new_value(domain, value(x).width);
  push(slipstream::scale(place(domain), factor, x, out, elementwise_));
  return out;
}

int ProgramBuilder::soft_cap(int x, float cap) {
  require(cap > 0.0f, "a soft cap must be positive");
  const Domain domain = value(x).domain;
  const int out = new_value(domain, value(x).width);
  push(slipstream::soft_cap(place(domain), cap, x, out, elementwise_));
  return out;
}

int ProgramBuilder::select(int x) {
  require(value(x).domain == Domain::rows, "rows are selected once");
  const int out = new_value(Domain::selected, value(x).width);
  push(select_rows(node_, x, out));
  return out;
}

}  // namespace slipstream
