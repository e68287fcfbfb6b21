// Packed matrices across the border: out, so that a file can keep them; in, as views of that file.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "arrays.h"
#include "bindings.h"
#include "step/builder.h"

namespace nb = nanobind;

namespace slipstream {
namespace {

constexpr const char* kCodeNames[] = {
    "f32",  "f16", "bf16",   "int8",  "int4",     "int2",     "int3",      "int5",
    "int6", "nf4", "iq4_nl", "mxfp4", "int8_2:4", "int4_2:4", "int8_mask", "int4_mask"};
constexpr const char* kScaleNames[] = {"f16", "f32", "e8m0", "nested"};

template <class Format, std::size_t count>
Format named(const char* const (&names)[count], const std::string& name) {
  for (std::size_t i = 0; i < count; ++i) {
    if (name == names[i]) return static_cast<Format>(i);
  }
  throw std::invalid_argument("packed panels of an unknown format: " + name);
}

// Keeps a Python object alive from C++; it may be let go on a thread without the GIL.
std::shared_ptr<const void> owner_of(nb::handle object) {
  return {new nb::object(nb::borrow(object)), [](const nb::object* kept) {
            nb::gil_scoped_acquire acquire;
            delete kept;
          }};
}

// (outputs, inputs, codes, group, scales, minimums or None, supers, code bytes): what add_packed
// takes back.
nb::tuple layout_of(const PackedMatrix& matrix) {
  const MatrixFormat& format = matrix.format();
  const nb::object minimums =
      format.has_minimums ? nb::object(nb::str(kScaleNames[int(format.minimums)])) : nb::none();
  return nb::make_tuple(matrix.outputs(), matrix.inputs(), kCodeNames[int(format.codes)],
                        format.group, kScaleNames[int(format.scales)], minimums, format.supers,
                        format.code_bytes);
}

// The layout of a matrix and its panels, uint8, read-only; the array keeps them alive.
nb::tuple packed(const ProgramBuilder& builder, int id) {
  auto* matrix = new std::shared_ptr<const PackedMatrix>(builder.packed(id));
  const nb::capsule owner(matrix, [](void* kept) noexcept {
    delete static_cast<std::shared_ptr<const PackedMatrix>*>(kept);
  });
  const std::byte* data = std::as_const(**matrix).codes(0);
  const nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>> panels(
      reinterpret_cast<const std::uint8_t*>(data), {(*matrix)->size_bytes()}, owner);
  return nb::make_tuple(layout_of(**matrix), panels);
}

int add_packed(ProgramBuilder& builder, nb::handle panels, std::int64_t outputs,
               std::int64_t inputs, const std::string& codes, std::int64_t group,
               const std::string& scales, const std::optional<std::string>& minimums,
               std::int64_t supers, std::int64_t code_bytes) {
  const auto array = nb::cast<AnyArray>(panels);
  MatrixFormat format;
  format.codes = named<CodeFormat>(kCodeNames, codes);
  format.group = group;
  format.scales = named<ScaleFormat>(kScaleNames, scales);
  format.has_minimums = minimums.has_value();
  format.supers = supers;
  format.code_bytes = code_bytes;
  if (minimums) format.minimums = named<ScaleFormat>(kScaleNames, *minimums);
  const auto* data = array_data<std::uint8_t>(array, 1, "packed panels");
  return builder.add_packed({format, outputs, inputs, owner_of(panels),
                             reinterpret_cast<const std::byte*>(data), array.shape(0)});
}

}  // namespace

void bind_packed(nb::class_<ProgramBuilder>& builder) {
  builder.def("packed", &packed)
      .def("add_packed", &add_packed, nb::arg("panels"), nb::arg("outputs"), nb::arg("inputs"),
           nb::arg("codes"), nb::arg("group"), nb::arg("scales"), nb::arg("minimums").none(),
           nb::arg("supers"), nb::arg("code_bytes") = 0);
}

}  // namespace slipstream
