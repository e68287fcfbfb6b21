// Python's view of the span search: arrays are checked, the GIL is released.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "arrays.h"
#include "bindings.h"
#include "kernels/spans.h"

namespace nb = nanobind;

namespace slipstream {
namespace {

using Written = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Isa isa_named(const std::string& name) {
  const std::optional<Isa> isa = name == "auto" ? detect() : isa_from_name(name);
  if (!isa || !isa_supported(*isa)) throw std::invalid_argument("no such instruction set here");
  return *isa;
}

// values float32 [G, N]; ends float32 [2, G] are written, the least first.
void span_ends(const AnyArray& values, Written ends, const std::string& name) {
  const SpanKernels& kernels = span_kernels(isa_named(name));
  const float* data = array_data<float>(values, 2, "values");
  const std::int64_t groups = extent(values, 0), width = extent(values, 1);
  const bool fits = ends.shape(0) == 2 && std::int64_t(ends.shape(1)) == groups;
  if (!fits || width < 16 || width % 16 != 0) {
    throw std::invalid_argument("groups are of a multiple of 16 values, with two ends each");
  }
  float* out = ends.data();
  nb::gil_scoped_release release;
  kernels.ends(data, groups, width, out, out + groups);
}

// values float32 [G, N], scales and zeros float32 [C, G], importance float32 [K, N] or None, the
// least and the greatest code; errors float32 [C, G] are written.
void span_errors(const AnyArray& values, const AnyArray& scales, const AnyArray& zeros,
                 const std::optional<AnyArray>& importance, float low, float high, bool by_minimum,
                 Written errors, const std::string& name) {
  const SpanKernels& kernels = span_kernels(isa_named(name));
  const std::int64_t groups = extent(values, 0), width = extent(values, 1);
  const SpanSearch search = {array_data<float>(values, 2, "values"),
                             importance ? array_data<float>(*importance, 2, "importance") : nullptr,
                             array_data<float>(scales, 2, "scales"),
                             array_data<float>(zeros, 2, "zeros"),
                             low,
                             high,
                             by_minimum,
                             extent(scales, 0),
                             groups,
                             width,
                             importance ? extent(*importance, 0) : 1};
  const auto fits = [&](const AnyArray& array) {
    return extent(array, 0) == search.candidates && extent(array, 1) == groups;
  };
  const bool shaped = fits(scales) && fits(zeros) && width % 16 == 0 &&
                      (!importance || (extent(*importance, 1) == width && search.kinds > 0)) &&
                      std::int64_t(errors.shape(0)) == search.candidates &&
                      std::int64_t(errors.shape(1)) == groups;
  if (!shaped) throw std::invalid_argument("the arrays of a span search do not fit each other");
  float* out = errors.data();
  nb::gil_scoped_release release;
  kernels.squared_errors(search, out);
}

}  // namespace

void bind_spans(nb::module_& module) {
  module.def("span_ends", &span_ends, nb::arg("values"), nb::arg("ends"), nb::arg("isa") = "auto");
  module.def("span_errors", &span_errors, nb::arg("values"), nb::arg("scales"), nb::arg("zeros"),
             nb::arg("importance").none(), nb::arg("low"), nb::arg("high"), nb::arg("by_minimum"),
             nb::arg("errors"), nb::arg("isa") = "auto");
}

}  // namespace slipstream
