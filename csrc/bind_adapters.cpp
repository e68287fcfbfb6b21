// Python's view of a program's adapters: matrices are checked and copied, slots are filled.

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "bindings.h"
#include "step/program.h"

namespace nb = nanobind;

namespace slipstream {
namespace {

// (site, A, B, dtype, scale); float16 and bfloat16 come as their bits, uint16.
using PartSpec = std::tuple<int, AnyArray, AnyArray, std::string, float>;

CodeFormat format_named(const std::string& type) {
  if (type == "float32") return CodeFormat::f32;
  if (type == "float16") return CodeFormat::f16;
  if (type == "bfloat16") return CodeFormat::bf16;
  throw std::invalid_argument("an adapter is float32, float16 or bfloat16");
}

const void* elements(const AnyArray& array, CodeFormat format) {
  if (format == CodeFormat::f32) return array_data<float>(array, 2, "an adapter's matrix");
  return array_data<std::uint16_t>(array, 2, "an adapter's matrix");
}

SitePart part_of(const PartSpec& spec) {
  const auto& [site, down, up, type, scale] = spec;
  LowRank shape;
  shape.format = format_named(type);
  shape.scale = scale;
  const void* a = elements(down, shape.format);
  const void* b = elements(up, shape.format);
  shape.rank = extent(down, 0);
  shape.inputs = extent(down, 1);
  shape.outputs = extent(up, 0);
  if (extent(up, 1) != shape.rank) {
    throw std::invalid_argument("an adapter's two matrices differ in rank");
  }
  return {site, shape, a, b};
}

void load(Program& program, int slot, const std::vector<PartSpec>& specs) {
  std::vector<SitePart> parts;
  for (const PartSpec& spec : specs) parts.push_back(part_of(spec));
  nb::gil_scoped_release release;
  program.load_adapter(slot, parts);
}

void unload(Program& program, int slot) {
  nb::gil_scoped_release release;
  program.unload_adapter(slot);
}

}  // namespace

void bind_adapters(nb::class_<Program>& program) {
  program.def("load_adapter", &load)
      .def("unload_adapter", &unload)
      .def_prop_ro("adapter_bytes", &Program::adapter_bytes)
      .def_prop_ro("adapter_sites", [](const Program& self) {
        std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
        for (const AdapterSite& site : self.adapter_sites())
          shapes.emplace_back(site.outputs, site.inputs);
        return shapes;
      });
}

}  // namespace slipstream
