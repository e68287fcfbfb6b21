// Python's view of Sampler: rows are checked, the GIL is released, the tokens are drawn.

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "arrays.h"
#include "bindings.h"
#include "step/sampler.h"

namespace nb = nanobind;

namespace slipstream {
namespace {

using Rows = std::vector<AnyArray>;  // float32 [V] each
using Tokens = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int kControls = 6;  // temperature, its inverse, top_k, top_p, log(min_p), typical_p

std::int64_t vocabulary_of(const Rows& rows) { return rows.empty() ? 1 : extent(rows[0], 0); }

const float* row_data(const AnyArray& row, std::int64_t vocabulary) {
  const float* data = array_data<float>(row, 1, "logits");
  if (extent(row, 0) != vocabulary) throw std::invalid_argument("rows must be equally long");
  return data;
}

// controls: float64 [L, 6]; keys: uint64 [L, 3]; tokens: int64 [L], written.
void draw(Sampler& sampler, const Rows& rows, const AnyArray& controls, const AnyArray& keys,
          Tokens tokens) {
  const double* control = array_data<double>(controls, 2, "controls");
  const std::uint64_t* key = array_data<std::uint64_t>(keys, 2, "keys");
  const auto count = std::int64_t(rows.size());
  const bool fits = extent(controls, 0) == count && extent(controls, 1) == kControls &&
                    extent(keys, 0) == count && extent(keys, 1) == 3 &&
                    std::int64_t(tokens.shape(0)) == count;
  if (!fits) throw std::invalid_argument("controls, keys and tokens need an entry for each row");
  const std::int64_t vocabulary = vocabulary_of(rows);
  std::vector<DrawRow> drawn;
  for (const AnyArray& row : rows) {
    drawn.push_back({row_data(row, vocabulary),
                     {control[0],
                      float(control[1]),
                      std::int64_t(control[2]),
                      control[3],
                      control[4],
                      control[5],
                      {key[0], key[1], key[2]}}});
    control += kControls;
    key += 3;
  }
  std::int64_t* out = tokens.data();
  nb::gil_scoped_release release;
  sampler.draw(drawn, vocabulary, out);
}

void totals(Sampler& sampler, const Rows& rows, Doubles totals, Floats highest) {
  if (totals.shape(0) != rows.size() || highest.shape(0) != rows.size()) {
    throw std::invalid_argument("totals and highest need an entry for each row");
  }
  const std::int64_t vocabulary = vocabulary_of(rows);
  std::vector<const float*> data;
  for (const AnyArray& row : rows) data.push_back(row_data(row, vocabulary));
  double* total = totals.data();
  float* best = highest.data();
  nb::gil_scoped_release release;
  sampler.totals(data, vocabulary, total, best);
}

std::vector<std::int64_t> top(const Sampler& sampler, const AnyArray& row, std::int64_t k) {
  const float* data = array_data<float>(row, 1, "logits");
  if (k < 1) throw std::invalid_argument("k must be at least 1");
  return sampler.top(data, extent(row, 0), k);
}

Sampler* new_sampler(const std::string& name, int threads) {
  const std::optional<Isa> isa = name == "auto" ? detect() : isa_from_name(name);
  if (!isa || !isa_supported(*isa)) throw std::invalid_argument("no such instruction set here");
  return new Sampler(*isa, threads);
}

}  // namespace

void bind_sampler(nb::module_& module) {
  nb::class_<Sampler>(module, "Sampler")
      .def(nb::new_(&new_sampler), nb::arg("isa") = "auto", nb::arg("threads") = 1)
      .def("draw", &draw)
      .def("totals", &totals)
      .def("top", &top);
}

}  // namespace slipstream
