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
  return scales.dtype() == nb::dtype<float>() ? ScaleFormat::f32 : ScaleFormat::f16;
}

const void* scale_data(const AnyArray& scales, const std::string& name) {
  if (scale_format(scales) == ScaleFormat::f32) return array_data<float>(scales, 2, name);
  return array_data<std::uint16_t>(scales, 2, name);
}

void set_offsets(SourceMatrix& source, const AnyArray& offsets, const std::string& zero) {
  if (zero == "minimum") {
    source.offsets = scale_data(offsets, "offsets");
    source.offset_format = scale_format(offsets) == ScaleFormat::f32 ? OffsetFormat::minimum_f32
                                                                     : OffsetFormat::minimum_f16;
  } else if (zero == "zero_point" && offsets.dtype() == nb::dtype<std::uint8_t>()) {
    source.offsets = array_data<std::uint8_t>(offsets, 2, "offsets");
    source.offset_format = OffsetFormat::zero_u8;
  } else if (zero == "zero_point") {
    source.offsets = array_data<std::int8_t>(offsets, 2, "offsets");
    source.offset_format = OffsetFormat::zero_i8;
  } else {
    throw std::invalid_argument("a symmetric matrix has no offsets");
  }
}

int add_affine(ProgramBuilder& builder, const AnyArray& codes, int bits, const AnyArray& scales,
               const std::optional<AnyArray>& offsets, const std::string& zero) {
  SourceMatrix source;
  if (bits == 4) {
    source.codes = array_data<std::uint8_t>(codes, 2, "codes");
  } else if (bits == 8) {
    source.codes = array_data<std::int8_t>(codes, 2, "codes");
  } else {
    throw std::invalid_argument("codes have 4 or 8 bits");
  }
  source.code_format = bits == 4 ? CodeFormat::int4 : CodeFormat::int8;
  source.outputs = extent(codes, 0);
  source.inputs = extent(codes, 1) * (8 / bits);
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
  nb::gil_scoped_release release;
  return builder.add_matrix(source);
}

int add_vector(ProgramBuilder& builder, const AnyArray& values) {
  return builder.add_vector(array_data<float>(values, 1, "a vector"), extent(values, 0));
}

std::vector<int> linear(ProgramBuilder& builder, int x, const std::vector<int>& matrices,
                        const std::vector<int>& biases, int bits, std::int64_t group) {
  if (matrices.size() != biases.size()) throw std::invalid_argument("one bias (or -1) a matrix");
  std::vector<MatrixUse> uses;
  for (std::size_t i = 0; i < matrices.size(); ++i) uses.push_back({matrices[i], biases[i]});
  return builder.linear(x, uses, {bits, group});
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
      .def("linear", &linear)
      .def("gated_linear",
           [](Self& self, int x, int gate, int up, const std::string& kind, int bits,
              std::int64_t group) {
             return self.gated_linear(x, gate, up, activation_named(kind), {bits, group});
           })
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
      .def("add_affine", &add_affine, nb::arg("codes"), nb::arg("bits"), nb::arg("scales"),
           nb::arg("offsets").none(), nb::arg("zero"))
      .def("add_vector", &add_vector)
      .def("begin_node", &ProgramBuilder::begin_node)
      .def("finish", &ProgramBuilder::finish);
  bind_nodes(builder);
  bind_packed(builder);
}

}  // namespace slipstream
