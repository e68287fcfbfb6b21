// Sparse matrices in the builder: whether one can be packed so, and whether that is faster here.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <stdexcept>

#include "kernels/pack_masked.h"
#include "kernels/pack_sparse.h"
#include "step/builder.h"

namespace slipstream {
namespace {

constexpr std::int64_t kTasks = 4;  // for each thread, as in a step of one row

std::int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

bool ProgramBuilder::is_two_of_four(const SourceMatrix& source) {
  require_open();
  if (!can_be_sparse(source)) return false;
  WorkQueue queue;
  std::atomic<bool> holds{true};
  auto work = [&](int) {
    while (holds) {
      const std::int64_t begin = queue.take() * kPanelOutputs;
      if (begin >= source.outputs) return;
      if (!two_of_four(source, {begin, std::min(begin + kPanelOutputs, source.outputs)}))
        holds = false;
    }
  };
  parts_.team->run(work);
  return holds;
}

MaskedSize ProgramBuilder::masked_size(const SourceMatrix& source, std::int64_t most) {
  require_open();
  if (!can_be_sparse(source))
    throw std::invalid_argument("only symmetric codes of 4 or 8 bits can be packed sparse");
  const std::int64_t panels = (source.outputs + kPanelOutputs - 1) / kPanelOutputs;
  WorkQueue queue;
  std::atomic<std::int64_t> kept{0}, fullest{0};
  auto work = [&](int) {
    while (fullest <= most) {
      const std::int64_t panel = queue.take();
      if (panel >= panels) return;
      const MaskedSize size = slipstream::masked_size(source, {panel, panel + 1}, most);
      kept += size.kept;
      std::int64_t seen = fullest;
      while (seen < size.panel_bytes && !fullest.compare_exchange_weak(seen, size.panel_bytes)) {
      }
    }
  };
  parts_.team->run(work);
  return {kept, fullest};
}

// The format that the matrix is packed into; how long masked panels are is counted by the team.
MatrixFormat ProgramBuilder::format_of(const SourceMatrix& source) {
  if (source.sparsity == Sparsity::two_of_four && !is_two_of_four(source))
    throw std::invalid_argument(
        "more than two of four weights are not zero, or the format has no sparse form");
  if (source.sparsity != Sparsity::masked) return packed_format(source);
  constexpr std::int64_t everything = std::numeric_limits<std::int64_t>::max();
  SourceMatrix measured = source;
  measured.code_bytes = masked_code_bytes(masked_size(source, everything).panel_bytes);
  return packed_format(measured);
}

std::int64_t ProgramBuilder::time_matrices(const std::vector<int>& ids, int rows) {
  require_open();
  if (ids.empty()) throw std::invalid_argument("no matrices to time");
  if (rows < 1 || rows > 4096) throw std::invalid_argument("rows must be in 1…4096");
  const PackedMatrix& first = matrix(ids[0]);
  const std::int64_t inputs = first.inputs(), outputs = first.outputs();
  const std::int64_t group = merge_group(first, 0);
  for (const int id : ids) {
    if (matrix(id).inputs() != inputs || matrix(id).outputs() != outputs ||
        merge_group(matrix(id), 0) != group)
      throw std::invalid_argument("matrices that are timed together have one shape");
  }
  AlignedBuffer memory(ActivationBlock::size_bytes(rows, inputs, group, group));
  ActivationBlock block = ActivationBlock::place(memory.data(), rows, inputs, group, group);
  std::vector<float> x(inputs * rows), y(outputs * rows * ids.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 255) - 127.0f;
  linear_.quantize_rows(x.data(), inputs, block, {0, rows});
  const std::int64_t threads = parts_.team->size();
  const std::int64_t chunk = std::max<std::int64_t>(1, first.panels() / (kTasks * threads));
  const std::int64_t chunks = (first.panels() + chunk - 1) / chunk;
  const auto count = static_cast<std::int64_t>(ids.size()) * chunks;
  std::vector<Scratch> scratch(threads);
  WorkQueue queue;
  std::int64_t start = 0, end = 0;
  auto walk = [&](int thread) {
    parts_.team->barrier();  // now nobody is still waking up
    if (thread == 0) start = now_ns();
    for (std::int64_t i = queue.take(); i < count; i = queue.take()) {
      const std::int64_t which = i / chunks, panel = i % chunks * chunk;
      float* out = y.data() + which * outputs * rows;
      const Product product{&matrix(ids[which]), nullptr, out, outputs, {}};
      const Range panels{panel, std::min(panel + chunk, first.panels())};
      linear_.multiply({&block, nullptr, 0}, product, {{0, rows}, panels}, scratch[thread]);
    }
    parts_.team->barrier([&] { end = now_ns(); });
  };
  parts_.team->run(walk);
  return end - start;
}

}  // namespace slipstream
