#include "step/linear_operation.h"

#include <algorithm>

namespace slipstream {
namespace {

constexpr std::int64_t kFewRows = 4;
constexpr std::int64_t kSomeRows = 32;
// Of the weights that a thread reads first, this much is asked for while it waits.
constexpr std::int64_t kUpcomingBytes = 32 << 10;

std::string code_word(CodeFormat codes) {
  switch (codes) {
    case CodeFormat::f32:
      return "f32";
    case CodeFormat::f16:
      return "f16";
    case CodeFormat::bf16:
      return "bf16";
    case CodeFormat::int8:
      return "int8";
    case CodeFormat::int4:
      return "int4";
    case CodeFormat::int2:
      return "int2";
    case CodeFormat::int3:
      return "int3";
    case CodeFormat::int5:
      return "int5";
    case CodeFormat::int6:
      return "int6";
    case CodeFormat::nf4:
      return "nf4";
    case CodeFormat::iq4_nl:
      return "iq4_nl";
    case CodeFormat::mxfp4:
      return "mxfp4";
    case CodeFormat::int8_2of4:
      return "int8_2:4";
    case CodeFormat::int4_2of4:
      return "int4_2:4";
    case CodeFormat::int8_masked:
      return "int8_mask";
    case CodeFormat::int4_masked:
      return "int4_mask";
  }
  return "other";
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

ActivationBlock LinearSource::block(const Step& step) const {
  const Value& value = step.values[rounded];
  ActivationBlock block = ActivationBlock::place(step.buffers.at(value), step.rows_in(value.domain),
                                                 inputs, group, sum_group);
  block.fixed_scale = scale;
  return block;
}

void LinearSource::round(const Step& step, const LinearKernels& kernels, Range rows) const {
  const Rows<float> x = rows_of(step, values);
  if (bits == 16) {
    const Rows<std::uint16_t> out = rows_of<std::uint16_t>(step, rounded);
    kernels.round_rows(x.data, x.stride, inputs, out.stride, out.data, rows);
  } else {
    ActivationBlock out = block(step);
    kernels.quantize_rows(x.data, x.stride, out, rows);
  }
}

LinearInput LinearSource::input(const Step& step, ActivationBlock& codes) const {
  LinearInput input;
  if (bits == 16) {
    const Rows<std::uint16_t> x = rows_of<std::uint16_t>(step, rounded);
    input.bfloats = x.data;
    input.stride = x.stride;
  } else if (bits == 8) {
    codes = block(step);
    input.quantized = &codes;
  } else {
    const Rows<float> x = rows_of(step, values);
    input.values = x.data;
    input.stride = x.stride;
  }
  return input;
}

RowOperation round_input(int node, Domain domain, const LinearSource& source,
                         const LinearKernels& kernels) {
  const auto work = [source, &kernels](const Step& step, int row_begin, int row_end) {
    source.round(step, kernels, {row_begin, row_end});
  };
  return {{node, {source.values}, {source.rounded}}, domain, work};
}

RowOperation shrink(int node, Domain domain, int values, const LinearSites& sites) {
  const auto work = [=](const Step& step, int row_begin, int row_end) {
    if (step.adapters == nullptr) return;
    const Rows<float> x = rows_of(step, values);
    for (int i = 0; i < sites.range.count; ++i) {
      const auto place = [&](AdapterRows& rows, std::int64_t row) {
        rows.wide[rows.count] = x[row];
        rows.narrow[rows.count] = step.adapters->products(row, i);
      };
      step.adapters->by_part(domain, row_begin, row_end, sites.range.first + i, place,
                             sites.kernels->shrink);
    }
  };
  RowOperation operation{{node, {values}, {}}, domain, work};
  operation.of_adapters = true;
  return operation;
}

LinearOperation::LinearOperation(int node, Domain domain, LinearSource source,
                                 std::vector<LinearPart> parts, const LinearSites& sites,
                                 const LinearKernels& kernels, int threads)
    : domain_(domain),
      source_(source),
      parts_(std::move(parts)),
      sites_(sites),
      kernels_(kernels),
      tasks_(threads),
      scratch_(threads),
      halves_(threads) {
  this->node = node;
  captured = source_.values;
  // The float input is kept although its rounded rows are read: `capture` looks at it.
  reads = {source.values};
  if (source.rounded >= 0) reads.push_back(source.rounded);
  for (const LinearPart& part : parts_) {
    writes.push_back(part.out);
    panels_ += part.matrix->panels();
  }
}

RowClass LinearOperation::class_of(std::int64_t rows) {
  if (rows <= kFewRows) return RowClass::few;
  return rows <= kSomeRows ? RowClass::some : RowClass::many;
}

std::string LinearOperation::shape() const {
  std::string text = std::to_string(source_.inputs);
  for (const LinearPart& part : parts_) {
    const MatrixFormat& format = part.matrix->format();
    text += part.up == nullptr ? " " : " gated ";
    text += std::to_string(part.matrix->outputs()) + " " + code_word(format.codes);
    if (!format.dense()) text += "/" + std::to_string(format.group);
    if (format.has_minimums) text += "+m";
    if (!format.dense() && format.scales == ScaleFormat::f32) text += " scaled f32";
  }
  if (source_.bits != 8) return text + (source_.bits == 16 ? " × bf16" : " × f32");
  return text + " × int8/" + std::to_string(source_.group);
}

std::size_t LinearOperation::size_bytes() const {
  std::size_t total = 0;
  for (const LinearPart& part : parts_) {
    total += part.matrix->size_bytes();
    if (part.up != nullptr) total += part.up->size_bytes();
  }
  return total;
}

void LinearOperation::fill_input(const Step& step) const {
  const int rows = step.rows_in(domain_);
  const Rows<float> x = rows_of(step, source_.values);
  for (std::int64_t k = 0; k < source_.inputs; ++k)
    x[0][k] = static_cast<float>(k * 37 % 255 - 127);
  for (int row = 1; row < rows; ++row) std::copy_n(x[0], source_.inputs, x[row]);
  if (source_.rounded >= 0) source_.round(step, kernels_, {0, rows});
}

void LinearOperation::prepare(const Step& step) {
  level(scratch_);
  level(halves_);
  const std::int64_t rows = step.rows_in(domain_);
  const LinearPlan& plan = plans_[static_cast<int>(class_of(rows))];
  choice_ = plan.kernel;
  row_chunk_ = std::max<std::int64_t>(1, std::min<std::int64_t>(rows, plan.task_rows));
  const std::int64_t row_chunks = std::max<std::int64_t>(1, divide_up(rows, row_chunk_));
  const std::int64_t tasks = std::int64_t{plan.tasks} * step.team.size();
  const std::int64_t wanted = std::max<std::int64_t>(1, divide_up(tasks, row_chunks));
  panel_chunk_ = divide_up(panels_, wanted);
  chunk_starts_.assign(1, 0);
  for (const LinearPart& part : parts_) {
    const auto chunks = static_cast<int>(divide_up(part.matrix->panels(), panel_chunk_));
    chunk_starts_.push_back(chunk_starts_.back() + chunks);
  }
  tasks_.reset(static_cast<int>(row_chunks) * chunk_starts_.back());
}

// Tasks are numbered row chunk by row chunk; within one, panel chunk by panel chunk.
LinearOperation::Task LinearOperation::task(int index, int rows) const {
  const int chunk = index % chunk_starts_.back();
  const std::int64_t row = std::int64_t{index / chunk_starts_.back()} * row_chunk_;
  const auto after = std::upper_bound(chunk_starts_.begin(), chunk_starts_.end(), chunk);
  const auto which = after - chunk_starts_.begin() - 1;
  const LinearPart& part = parts_[which];
  const std::int64_t panel = std::int64_t{chunk - chunk_starts_[which]} * panel_chunk_;
  return {&part,
          {{row, std::min<std::int64_t>(row + row_chunk_, rows)},
           {panel, std::min(panel + panel_chunk_, part.matrix->panels())}}};
}

void LinearOperation::run(const Step& step, int thread) {
  const int rows = step.rows_in(domain_);
  if (rows == 0) return;
  ActivationBlock block;
  const LinearInput input = source_.input(step, block);
  for (int i = tasks_.take(thread); i >= 0; i = tasks_.take(thread)) {
    const Task work = task(i, rows);
    const Range range = work.range.rows;
    const bool adapted = step.adapters != nullptr &&
                         step.adapters->touches(domain_, range.begin, range.end, sites_.range);
    if (adapted) {
      multiply_adapted(step, input, work, thread);
    } else {
      multiply(step, input, work, thread);
    }
  }
}

Upcoming LinearOperation::upcoming(int thread) const {
  const int first = tasks_.first(thread);
  if (first < 0) return {};
  const Task work = task(first, 1);
  const PackedMatrix& matrix = *work.part->matrix;
  const std::int64_t panel = work.range.panels.begin;
  const auto left = static_cast<std::int64_t>(matrix.panel_bytes()) * (matrix.panels() - panel);
  return {{matrix.codes(panel), work.part->up ? work.part->up->codes(panel) : nullptr},
          std::min(left, kUpcomingBytes)};
}

void LinearOperation::multiply(const Step& step, const LinearInput& input, const Task& work,
                               int thread) {
  const LinearPart& part = *work.part;
  const Rows<float> y = rows_of(step, part.out);
  if (part.up == nullptr) {
    kernels_.multiply(input, {part.matrix, part.bias, y.data, y.stride, choice_}, work.range,
                      scratch_[thread]);
    return;
  }
  const GatedProduct product{part.matrix, part.up, nullptr,  nullptr,
                             part.kind,   y.data,  y.stride, choice_};
  kernels_.multiply_gated(input, product, work.range, scratch_[thread]);
}

// The same, and what adapters add. A gated linear is taken apart: gate and up of the task's rows
// and panels into scratch, their adapters, then the gate, which gives the bits of the fused one.
void LinearOperation::multiply_adapted(const Step& step, const LinearInput& input, const Task& work,
                                       int thread) {
  const LinearPart& part = *work.part;
  const auto [rows, panels] = work.range;
  const Rows<float> y = rows_of(step, part.out);
  const std::int64_t column = panels.begin * kPanelOutputs;
  const Rows<float> out{y[rows.begin] + column, y.stride};
  if (part.up == nullptr) {
    multiply(step, input, work, thread);
    add_adapters(step, static_cast<int>(&part - parts_.data()), work.range, out);
    return;
  }
  const std::int64_t width = std::min(panels.end * kPanelOutputs, part.matrix->outputs()) - column;
  const std::int64_t stride = (panels.end - panels.begin) * kPanelOutputs;
  const std::int64_t count = rows.end - rows.begin;
  auto* memory =
      reinterpret_cast<float*>(halves_[thread].reserve(sizeof(float) * 2 * count * stride));
  const Rows<float> halves[2] = {{memory, stride}, {memory + count * stride, stride}};
  for (int i = 0; i < 2; ++i) {
    float* origin = halves[i].data - rows.begin * stride - column;  // of row 0, output 0
    const PackedMatrix* matrix = i == 0 ? part.matrix : part.up;
    kernels_.multiply(input, {matrix, nullptr, origin, stride, choice_}, work.range,
                      scratch_[thread]);
    add_adapters(step, i, work.range, halves[i]);
  }
  for (std::int64_t row = 0; row < count; ++row)
    kernels_.gate(part.kind, halves[0][row], halves[1][row], out[row], width);
}

void LinearOperation::add_adapters(const Step& step, int i, const Part& range,
                                   const Rows<float>& y) const {
  const std::int64_t column = range.panels.begin * kPanelOutputs;
  const auto place = [&](AdapterRows& rows, std::int64_t row) {
    rows.narrow[rows.count] = step.adapters->products(row, i);
    rows.out[rows.count] = y[row - range.rows.begin] - column;
  };
  const auto expand = [&](const LowRank& part, const AdapterRows& rows) {
    sites_.kernels->expand(part, rows, range.panels);
  };
  step.adapters->by_part(domain_, range.rows.begin, range.rows.end, sites_.range.first + i, place,
                         expand);
}

}  // namespace slipstream
