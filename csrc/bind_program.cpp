// Python's view of Program and KV: arrays are checked, the GIL is released, the step runs.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "arrays.h"
#include "bindings.h"
#include "step/program.h"

namespace nb = nanobind;

namespace slipstream {
namespace {

using MaybeArray = std::optional<AnyArray>;
using OutArray = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Batch batch_of(const AnyArray& ids, const AnyArray& row_starts, const AnyArray& lengths,
               const AnyArray& pages, const AnyArray& logit_rows, const MaybeArray& adapters) {
  Batch batch;
  batch.ids = array_data<std::int32_t>(ids, 1, "ids");
  batch.row_starts = array_data<std::int32_t>(row_starts, 1, "row_starts");
  batch.lengths = array_data<std::int32_t>(lengths, 1, "lengths");
  const int tables = pages.ndim() == 3 ? 1 : 0;  // whether the first axis is that of the tables
  batch.pages = array_data<std::int32_t>(pages, 2 + tables, "pages");
  batch.logit_rows = array_data<std::int32_t>(logit_rows, 1, "logit_rows");
  batch.rows = count_of(ids, 0, "ids");
  batch.sequences = count_of(lengths, 0, "lengths");
  batch.page_stride = count_of(pages, 1 + tables, "pages");
  batch.page_tables = tables == 0 ? 1 : count_of(pages, 0, "pages");
  batch.logit_count = count_of(logit_rows, 0, "logit_rows");
  if (extent(row_starts, 0) != std::int64_t{batch.sequences} + 1) {
    throw std::invalid_argument("row_starts must be one longer than lengths");
  }
  if (extent(pages, tables) != batch.sequences) {
    throw std::invalid_argument("pages must have a row for each sequence");
  }
  if (adapters) {
    batch.adapters = array_data<std::int32_t>(*adapters, 1, "adapters");
    if (extent(*adapters, 0) != batch.sequences) {
      throw std::invalid_argument("adapters must have a slot for each sequence");
    }
  }
  return batch;
}

float* logits_of(const Program& program, const Batch& batch, OutArray& out) {
  const bool fits = out.shape(0) == static_cast<std::size_t>(batch.logit_count) &&
                    out.shape(1) == static_cast<std::size_t>(program.vocabulary());
  if (!fits) throw std::invalid_argument("the logits' array must be [logit rows, vocabulary]");
  return out.data();
}

void step(Program& program, const AnyArray& ids, const AnyArray& row_starts,
          const AnyArray& lengths, const AnyArray& pages, const AnyArray& logit_rows,
          const MaybeArray& adapters, KV& kv, OutArray logits) {
  const Batch batch = batch_of(ids, row_starts, lengths, pages, logit_rows, adapters);
  float* out = logits_of(program, batch, logits);
  nb::gil_scoped_release release;
  program.step(batch, kv, out);
}

std::vector<std::int64_t> step_timed(Program& program, const AnyArray& ids,
                                     const AnyArray& row_starts, const AnyArray& lengths,
                                     const AnyArray& pages, const AnyArray& logit_rows,
                                     const MaybeArray& adapters, KV& kv, OutArray logits) {
  const Batch batch = batch_of(ids, row_starts, lengths, pages, logit_rows, adapters);
  float* out = logits_of(program, batch, logits);
  std::vector<std::int64_t> nanoseconds;
  nb::gil_scoped_release release;
  program.step_timed(batch, kv, out, nanoseconds);
  return nanoseconds;
}

void step_captured(Program& program, const AnyArray& ids, const AnyArray& row_starts,
                   const AnyArray& lengths, const AnyArray& pages, const AnyArray& logit_rows,
                   const MaybeArray& adapters, KV& kv, OutArray logits,
                   const std::vector<int>& nodes, std::vector<OutArray> inputs) {
  const Batch batch = batch_of(ids, row_starts, lengths, pages, logit_rows, adapters);
  float* out = logits_of(program, batch, logits);
  if (nodes.size() != inputs.size()) throw std::invalid_argument("one array for each node");
  std::vector<Capture> captures;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Value& value = program.input_of(nodes[i]);
    const int rows = value.domain == Domain::rows ? batch.rows : batch.logit_count;
    if (inputs[i].shape(0) != static_cast<std::size_t>(rows) ||
        inputs[i].shape(1) != static_cast<std::size_t>(value.width)) {
      throw std::invalid_argument("a captured input must be [rows, inputs]");
    }
    captures.push_back({nodes[i], inputs[i].data()});
  }
  nb::gil_scoped_release release;
  program.step_captured(batch, kv, out, captures);
}

void copy_page(KV& kv, int source, int target, std::optional<int> kind) {
  if (kind) return kv.copy_page(source, target, *kind);
  for (std::size_t each = 0; each < kv.page_counts().size(); ++each) {
    kv.copy_page(source, target, static_cast<int>(each));
  }
}

// (node, shape, bytes) of each linear.
std::vector<std::tuple<int, std::string, std::size_t>> linears(const Program& program) {
  std::vector<std::tuple<int, std::string, std::size_t>> found;
  for (const LinearOperation* linear : program.linears())
    found.emplace_back(linear->node, linear->shape(), linear->size_bytes());
  return found;
}

// (direct_rows, prefetch_bytes, task_rows, tasks)
using PlanTuple = std::tuple<int, int, int, int>;

LinearPlan plan_of(const PlanTuple& plan) {
  return {{std::get<0>(plan), std::get<1>(plan)}, std::get<2>(plan), std::get<3>(plan)};
}

PlanTuple linear_plan(Program& program, int node, int rows) {
  for (const LinearOperation* linear : program.linears()) {
    if (linear->node != node) continue;
    const LinearPlan& plan = linear->plan(LinearOperation::class_of(rows));
    return {plan.kernel.direct_rows, plan.kernel.prefetch_bytes, plan.task_rows, plan.tasks};
  }
  throw std::invalid_argument("the node is no linear");
}

std::int64_t time_linears(Program& program, const std::vector<int>& nodes, int rows,
                          const PlanTuple& plan) {
  nb::gil_scoped_release release;
  return program.time_linears(nodes, rows, plan_of(plan));
}

void plan_linears(Program& program, const std::vector<int>& nodes, int rows,
                  const PlanTuple& plan) {
  nb::gil_scoped_release release;
  program.plan_linears(nodes, LinearOperation::class_of(rows), plan_of(plan));
}

}  // namespace

void bind_program(nb::module_& module) {
  nb::class_<KV>(module, "KV")
      .def_prop_ro("page_counts", &KV::page_counts)
      .def_prop_ro("page_count", [](const KV& kv) { return std::ranges::min(kv.page_counts()); })
      .def_prop_ro("size_bytes", &KV::size_bytes)
      .def("copy_page", &copy_page, nb::arg("source"), nb::arg("target"),
           nb::arg("kind").none() = nb::none());
  nb::class_<Program> program(module, "Program");
  program.def_prop_ro("threads", &Program::threads)
      .def_prop_ro("vocabulary", &Program::vocabulary)
      .def_prop_ro("resident_bytes", &Program::resident_bytes)
      .def("new_kv", &Program::new_kv)
      .def("input_of",
           [](const Program& program, int node) {
             const Value& value = program.input_of(node);
             return std::pair(value.width, value.domain == Domain::selected);
           })
      .def("step", &step, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
           nb::arg(), nb::arg())
      .def("step_timed", &step_timed, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg().none(), nb::arg(), nb::arg())
      .def("step_captured", &step_captured, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg());
  program.def("linears", &linears)
      .def("linear_plan", &linear_plan)
      .def("time_linears", &time_linears)
      .def("plan_linears", &plan_linears);
  bind_adapters(program);
}

}  // namespace slipstream
