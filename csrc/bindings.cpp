// The Python module slipstream._native: the builder and its programs, and what this machine can
// run.

#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "isa/isa.h"
#include "kernels/pack.h"

NB_MODULE(_native, module) {
  // A process that ends with a thread still computing keeps its objects to the end: no news to
  // users.
  nanobind::set_leak_warnings(false);
  module.doc() = "Native kernels and the step executor; use slipstream.backends.native instead.";
  module.def("isa_available", [] {
    std::vector<std::string> names;
    for (slipstream::Isa isa : slipstream::isas_supported()) {
      names.emplace_back(slipstream::isa_name(isa));
    }
    return names;
  });
  module.attr("PACKED_LAYOUT") = slipstream::kPackedLayout;
  slipstream::bind_builder(module);
  slipstream::bind_program(module);
  slipstream::bind_sampler(module);
  slipstream::bind_spans(module);
  bind_probe(module);
}
