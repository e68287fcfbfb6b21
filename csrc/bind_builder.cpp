// Python's view of ProgramBuilder: weights from arrays, nodes from plain numbers and words.

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "bindings.h"
#include "step/builder.h"

namespace nb = nanobind;

namespace slipstream {
namespace {

Isa isa_named(const std::string& name) {
  const auto isa = isa_from_name(name);
  if (!isa || !isa_supported(*isa)) {
    throw std::invalid_argument("this machine cannot run the instruction set '" + name + "'");
  }
  return *isa;
}

KVType kv_type_named(const std::string& name) {
  if (name == "bfloat16") return {KVFormat::bfloat16, KVFormat::bfloat16};
  if (name == "float32") return {KVFormat::float32, KVFormat::float32};
  if (name == "int8") return {KVFormat::int8, KVFormat::int8};
  if (name == "k8v4") return {KVFormat::int8, KVFormat::int4};
  if (name == "int4") return {KVFormat::int4, KVFormat::int4};
  throw std::invalid_argument(
      "keys and values are stored as float32, bfloat16, int8, k8v4 or int4");
}

Activation activation_named(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  throw std::invalid_argument("no such activation: " + name);
}

// float32, or the bits of float16 or bfloat16 as uint16 (numpy has no name for the latter).
int add_dense(ProgramBuilder& builder, const AnyArray& data, const std::string& type) {
  SourceMatrix source;
  if (type == "float32") {
    source.code_format = CodeFormat::f32;
    source.codes = array_data<float>(data, 2, "a dense matrix");
  } else if (type == "float16" || type == "bfloat16") {
    source.code_format = type == "float16" ? CodeFormat::f16 : CodeFormat::bf16;
    source.codes = array_data<std::uint16_t>(data, 2, "a dense matrix");
  } else {
    throw std::invalid_argument("a dense matrix is float32, float16 or bfloat16");
  }
  source.outputs = extent(data, 0);
  source.inputs = extent(data, 1);
  nb::gil_scoped_release release;
  return builder.add_matrix(source);
}

// float16 arrays come as their bits, uint16.
ScaleFormat scale_format(const AnyArray& scales) {
  if (scales.dtype() == nb::dtype<float>()) return ScaleFormat::f32;
  if (scales.dtype() == nb::dtype<std::uint8_t>()) return ScaleFormat::e8m0;
  if (scales.dtype() == nb::dtype<std::int8_t>()) return ScaleFormat::nested;
  return ScaleFormat::f16;
}

const void* scale_data(const AnyArray& scales, const std::string& name) {
  switch (scale_format(scales)) {
    case ScaleFormat::f32:
      return array_data<float>(scales, 2, name);
    case ScaleFormat::e8m0:
      return array_data<std::uint8_t>(scales, 2, name);
    case ScaleFormat::nested:
      return array_data<std::int8_t>(scales, 2, name);
    default:
      return array_data<std::uint16_t>(scales, 2, name);
  }
}

OffsetFormat minimum_format(const AnyArray& offsets) {
  switch (scale_format(offsets)) {
    case ScaleFormat::f32:
      return OffsetFormat::minimum_f32;
    case ScaleFormat::nested:
      return OffsetFormat::minimum_nested;
    case ScaleFormat::f16:
      return OffsetFormat::minimum_f16;
    default:
      throw std::invalid_argument("offsets has the wrong dtype");
  }
}

void set_offsets(SourceMatrix& source, const AnyArray& offsets, const std::string& zero) {
  if (zero == "minimum") {
    source.offsets = scale_data(offsets, "offsets");
    source.offset_format = minimum_format(offsets);
  } else if (zero == "zero_point" && bits_of_code(source.code_format) <= 4) {
    source.offsets = array_data<std::uint8_t>(offsets, 2, "offsets");
    source.offset_format = OffsetFormat::zero_u8;
  } else if (zero == "zero_point") {
    source.offsets = array_data<std::int8_t>(offsets, 2, "offsets");
    source.offset_format = OffsetFormat::zero_i8;
  } else {
    throw std::invalid_argument("a symmetric matrix has no offsets");
  }
}

CodeFormat code_format(const std::string& kind) {
  const std::pair<const char*, CodeFormat> known[] = {
      {"int8", CodeFormat::int8}, {"int6", CodeFormat::int6},     {"int5", CodeFormat::int5},
      {"int4", CodeFormat::int4}, {"int3", CodeFormat::int3},     {"int2", CodeFormat::int2},
      {"nf4", CodeFormat::nf4},   {"iq4_nl", CodeFormat::iq4_nl}, {"mxfp4", CodeFormat::mxfp4}};
  for (const auto& [name, format] : known)
    if (kind == name) return format;
  throw std::invalid_argument("no kernel reads codes of the kind '" + kind + "'");
}

// The second level of nested scales or minimums: f16 [outputs, supers] as uint16.
const std::uint16_t* super_data(const AnyArray& supers, SourceMatrix& source) {
  const std::int64_t count = extent(supers, supers.ndim() - 1);
  const auto* data = array_data<std::uint16_t>(supers, 2, "supers");
  const bool fits = extent(supers, 0) == source.outputs && count > 0 &&
                    (source.super_count == 0 || source.super_count == count);
  if (!fits) throw std::invalid_argument("supers must be [outputs, super-groups]");
  source.super_count = count;
  return data;
}

void set_supers(SourceMatrix& source, const std::optional<AnyArray>& supers,
                const std::optional<AnyArray>& minimum_supers) {
  const bool nested = source.scale_format == ScaleFormat::nested;
  const bool nested_minimums = source.offset_format == OffsetFormat::minimum_nested;
  if (nested != supers.has_value() || nested_minimums != minimum_supers.has_value())
    throw std::invalid_argument("int8 scales and minimums, and no others, come with supers");
  if (supers) source.supers = super_data(*supers, source);
  if (minimum_supers) source.minimum_supers = super_data(*minimum_supers, source);
}

void set_codes(SourceMatrix& source, const AnyArray& codes) {
  const bool nibbles = bits_of_code(source.code_format) <= 4;
  if (nibbles) {
    source.codes = array_data<std::uint8_t>(codes, 2, "codes");
  } else {
    source.codes = array_data<std::int8_t>(codes, 2, "codes");
  }
  source.outputs = extent(codes, 0);
  source.inputs = extent(codes, 1) * (nibbles ? 2 : 1);
}

Sparsity sparsity_named(const std::string& form) {
  if (form == "dense") return Sparsity::none;
  if (form == "2:4") return Sparsity::two_of_four;
  if (form == "mask") return Sparsity::masked;
  throw std::invalid_argument("a matrix is packed as dense, 2:4 or mask, not as " + form);
}

// formats/tensor.py's quantized records, array by array; `form`: which zeros are left out.
int add_quantized(ProgramBuilder& builder, const AnyArray& codes, const std::string& kind,
                  const AnyArray& scales, const std::optional<AnyArray>& offsets,
                  const std::string& zero, const std::optional<AnyArray>& supers,
                  const std::optional<AnyArray>& minimum_supers, const std::string& form) {
  SourceMatrix source;
  source.code_format = code_format(kind);
  set_codes(source, codes);
  source.scales = scale_data(scales, "scales");
  source.scale_format = scale_format(scales);
  const std::int64_t groups = extent(scales, 1);
  const bool fits =
      extent(scales, 0) == source.outputs && groups > 0 && source.inputs % groups == 0;
  if (!fits) throw std::invalid_argument("scales must be [outputs, groups]");
  source.group = source.inputs / groups;
  if (offsets) {
    set_offsets(source, *offsets, zero);
    if (extent(*offsets, 0) != source.outputs || extent(*offsets, 1) != groups) {
      throw std::invalid_argument("offsets must be [outputs, groups]");
    }
  } else if (zero != "symmetric") {
    throw std::invalid_argument("offsets are missing");
  }
  set_supers(source, supers, minimum_supers);
  source.sparsity = sparsity_named(form);
  nb::gil_scoped_release release;
  return builder.add_matrix(source);
}

// Whether symmetric codes, as add_quantized takes them, can be added as 2:4.
bool is_two_of_four(ProgramBuilder& builder, const AnyArray& codes, const std::string& kind) {
  SourceMatrix source;
  source.code_format = code_format(kind);
  set_codes(source, codes);
  nb::gil_scoped_release release;
  return builder.is_two_of_four(source);
}

// (codes that are not zero, bytes of the fullest panel) of such codes by mask: see builder.h.
nb::tuple masked_size_of(ProgramBuilder& builder, const AnyArray& codes, const std::string& kind,
                         std::int64_t most) {
  SourceMatrix source;
  source.code_format = code_format(kind);
  set_codes(source, codes);
  MaskedSize size;
  {
    nb::gil_scoped_release release;
    size = builder.masked_size(source, most);
  }
  return nb::make_tuple(size.kept, size.panel_bytes);
}

std::int64_t time_matrices(ProgramBuilder& builder, const std::vector<int>& matrices, int rows) {
  nb::gil_scoped_release release;
  return builder.time_matrices(matrices, rows);
}

int add_vector(ProgramBuilder& builder, const AnyArray& values) {
  return builder.add_vector(array_data<float>(values, 1, "a vector"), extent(values, 0));
}

std::vector<int> linear(ProgramBuilder& builder, int x, const std::vector<int>& matrices,
                        const std::vector<int>& biases, int bits, std::int64_t group, float scale) {
  if (matrices.size() != biases.size()) throw std::invalid_argument("one bias (or -1) a matrix");
  std::vector<MatrixUse> uses;
  for (std::size_t i = 0; i < matrices.size(); ++i) uses.push_back({matrices[i], biases[i]});
  return builder.linear(x, uses, {bits, group, scale});
}

void bind_nodes(nb::class_<ProgramBuilder>& builder) {
  using Self = ProgramBuilder;
  builder.def("embed", &Self::embed)
      .def("position_embed", &Self::position_embed)
      .def("norm",
           [](Self& self, int x, bool layer, int heads, float epsilon, int weights, int biases) {
             return self.norm(x, {layer, heads, epsilon, weights, biases});
           })
      .def("add_norm",
           [](Self& self, int residual, int delta, bool layer, float epsilon, int weights,
              int biases) {
             return self.add_norm(residual, delta, {layer, 1, epsilon, weights, biases});
           })
      .def("linear", &linear, nb::arg("x"), nb::arg("matrices"), nb::arg("biases"), nb::arg("bits"),
           nb::arg("group"), nb::arg("scale") = 0.0f)
      .def(
          "gated_linear",
          [](Self& self, int x, int gate, int up, const std::string& kind, int bits,
             std::int64_t group, float scale) {
            return self.gated_linear(x, gate, up, activation_named(kind), {bits, group, scale});
          },
          nb::arg("x"), nb::arg("gate"), nb::arg("up"), nb::arg("kind"), nb::arg("bits"),
          nb::arg("group"), nb::arg("scale") = 0.0f)
      .def("rotary",
           [](Self& self, int x, int heads, int head_dim, const std::vector<double>& frequencies,
              double factor) { return self.rotary(x, {heads, head_dim, frequencies, factor}); })
      .def("attention",
           [](Self& self, int queries, int keys, int values, int heads, int kv_heads, int head_dim,
              float scale, int window, float soft_cap) {
             return self.attention(queries, keys, values,
                                   {heads, kv_heads, head_dim, scale, window, soft_cap});
           })
      .def("activate",
           [](Self& self, int x, const std::string& kind) {
             return self.activate(x, activation_named(kind));
           })
      .def("gate",
           [](Self& self, int gate, int up, const std::string& kind) {
             return self.gate(gate, up, activation_named(kind));
           })
      .def("add", &Self::add)
      .def("scale", &Self::scale)
      .def("soft_cap", &Self::soft_cap)
      .def("select", &Self::select);
}

}  // namespace

void bind_builder(nb::module_& module) {
  nb::class_<ProgramBuilder> builder(module, "Builder");
  builder
      .def("__init__",
           [](ProgramBuilder* self, int threads, const std::string& isa,
              const std::string& kv_type) {
             new (self) ProgramBuilder(threads, isa_named(isa), kv_type_named(kv_type));
           })
      .def("add_dense", &add_dense)
      .def("add_quantized", &add_quantized, nb::arg("codes"), nb::arg("kind"), nb::arg("scales"),
           nb::arg("offsets").none(), nb::arg("zero"), nb::arg("supers").none() = nb::none(),
           nb::arg("minimum_supers").none() = nb::none(), nb::arg("form") = "dense")
      .def("is_two_of_four", &is_two_of_four)
      .def("masked_size", &masked_size_of)
      .def("time_matrices", &time_matrices)
      .def("add_vector", &add_vector)
      .def("begin_node", &ProgramBuilder::begin_node)
      .def("finish", &ProgramBuilder::finish);
  bind_nodes(builder);
  bind_packed(builder);
}

}  // namespace slipstream
