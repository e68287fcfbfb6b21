#include "step/linear_operation.h"

#include <algorithm>

namespace slipstream {
namespace {

// Rows that one task multiplies: their rounded inputs and outputs stay in the second-level cache.
constexpr std::int64_t kRowChunk = 128;
// Tasks per thread and linear: enough to even out a disturbed core; each prepares its rows anew,
// which for a single row is a few hundredths of a task.
constexpr std::int64_t kTasksPerThread = 8;
constexpr std::int64_t kTasksPerThreadFewRows = 4;
constexpr std::int64_t kFewRows = 4;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

ActivationBlock LinearSource::block(const Step& step) const {
  const Value& value = step.values[quantized];
  return ActivationBlock::place(step.buffers.at(value), step.rows_in(value.domain), inputs, group,
                                sum_group);
}

RowOperation quantize(int node, Domain domain, const LinearSource& source,
                      const LinearKernels& kernels) {
  auto round = kernels.quantize_rows;
  const auto work = [=](const Step& step, int row_begin, int row_end) {
    ActivationBlock block = source.block(step);
    const Rows<float> x = rows_of(step, source.values);
    round(x.data, x.stride, block, {row_begin, row_end});
  };
  return {{node, {source.values}, {source.quantized}}, domain, work};
}

LinearOperation::LinearOperation(int node, Domain domain, LinearSource source,
                                 std::vector<LinearPart> parts, const LinearKernels& kernels,
                                 int threads)
    : domain_(domain),
      source_(source),
      parts_(std::move(parts)),
      kernels_(kernels),
      scratch_(threads) {
  this->node = node;
  captured = source_.values;
  // The float input is kept although its rounded rows are read: `capture` looks at it.
  reads = {source.values};
  if (source.quantized >= 0) reads.push_back(source.quantized);
  for (const LinearPart& part : parts_) {
    writes.push_back(part.out);
    panels_ += part.matrix->panels();
  }
}

void LinearOperation::prepare(const Step& step) {
  queue_.reset();
  const std::int64_t rows = step.rows_in(domain_);
  row_chunk_ = std::max<std::int64_t>(1, std::min(rows, kRowChunk));
  const std::int64_t row_chunks = divide_up(rows, row_chunk_);
  const std::int64_t per_thread = rows > kFewRows ? kTasksPerThread : kTasksPerThreadFewRows;
  const std::int64_t wanted = std::max<std::int64_t>(
      1, divide_up(per_thread * step.team.size(), std::max<std::int64_t>(1, row_chunks)));
  panel_chunk_ = divide_up(panels_, wanted);
  chunk_starts_.assign(1, 0);
  for (const LinearPart& part : parts_) {
    const auto chunks = static_cast<int>(divide_up(part.matrix->panels(), panel_chunk_));
    chunk_starts_.push_back(chunk_starts_.back() + chunks);
  }
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
  LinearInput input;
  if (source_.quantized >= 0) {
    block = source_.block(step);
    input.quantized = &block;
  } else {
    const Rows<float> x = rows_of(step, source_.values);
    input.values = x.data;
    input.stride = x.stride;
  }
  const auto count = static_cast<int>(divide_up(rows, row_chunk_)) * chunk_starts_.back();
  for (int i = queue_.take(); i < count; i = queue_.take()) {
    const Task work = task(i, rows);
    const LinearPart& part = *work.part;
    const Rows<float> y = rows_of(step, part.out);
    if (part.up == nullptr) {
      kernels_.multiply(input, {part.matrix, part.bias, y.data, y.stride}, work.range,
                        scratch_[thread]);
    } else {
      const GatedProduct product{part.matrix, part.up, nullptr, nullptr,
                                 part.kind,   y.data,  y.stride};
      kernels_.multiply_gated(input, product, work.range, scratch_[thread]);
    }
  }
}

}  // namespace slipstream
