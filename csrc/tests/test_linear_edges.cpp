// What surrounds the products: rounding of rows, gates, embeddings, packing in ranges, NaN and
// infinity, and what is refused. Every instruction set gives the bits of the plain loops.
#include <limits>
#include <memory>
#include <stdexcept>

#include "kernels/pack_masked.h"
#include "kernels/pack_sparse.h"
#include "tests/check.h"
#include "tests/linear_candidates.h"
#include "tests/linear_random.h"

namespace slipstream::test {
namespace {

constexpr Shape kInt4{5, 40, 96, CodeFormat::int4, 32, ScaleFormat::f16, OffsetFormat::none, 32};
constexpr Shape kBf16{5,          40, 96, CodeFormat::bf16, 0, ScaleFormat::f32, OffsetFormat::none,
                      kBfloatRows};

template <class Function>
bool refuses(Function function) {
  try {
    function();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

void test_rows_are_rounded_as_the_naive_loop_does() {
  for (const int64_t group : {0, 16, 32, 48}) {
    for (const int64_t inputs : {1, 16, 50, 96, 130}) {
      Case c = make_case(
          {7, 1, inputs, CodeFormat::int8, inputs, ScaleFormat::f32, OffsetFormat::none, group},
          uint32_t(inputs + group));
      c.x[0] = 1e-40f;                  // row 0: 127 / max would overflow when alone
      c.x[size_t(inputs)] = -INFINITY;  // row 1
      c.x[size_t(2 * inputs)] = NAN;    // row 2
      for (int64_t k = 0; k < inputs; ++k) c.x[size_t(3 * inputs + k)] = 0.0f;
      const NaiveRows expected = naive_quantize(c);
      for (const Candidate& candidate : candidates()) {
        const Block got = quantized(*candidate.kernels, c, group == 0 ? 0 : 16);
        const ActivationBlock& b = got.block;
        int wrong = 0;
        for (int64_t r = 0; r < b.rows; ++r) {
          for (int64_t k = 0; k < b.inputs_padded; ++k)
            wrong += b.codes[r * b.inputs_padded + k] !=
                     (k < inputs ? expected.codes[size_t(r * inputs + k)] : 0);
          for (int64_t g = 0; g < b.sum_groups; ++g) {
            int32_t sum = 0;
            for (int64_t k = g * b.sum_group; k < std::min((g + 1) * b.sum_group, inputs); ++k)
              sum += expected.codes[size_t(r * inputs + k)];
            wrong += b.sums[r * b.sum_groups + g] != sum;
          }
        }
        const std::vector<float> scales(b.scales, b.scales + b.rows * b.groups);
        CHECK(wrong == 0 && first_difference(scales, expected.scales) < 0,
              "%s inputs %d group %d: %d wrong", candidate.name.c_str(), int(inputs), int(group),
              wrong);
      }
    }
  }
}

void test_a_gated_product_is_its_two_products_and_the_gate() {
  for (const int64_t activation_group : {int64_t(32), int64_t(-1)})
    for (const int64_t rows : {1, 4, 7, 20}) {
      Shape shape = kInt4;
      shape.rows = rows;
      shape.activation_group = activation_group;
      const Case gate = make_case(shape, 5);
      shape.codes = CodeFormat::int8;  // formats may differ
      shape.offsets = OffsetFormat::minimum_f32;
      Case up = make_case(shape, 6);
      up.x = gate.x;
      const PackedMatrix gate_matrix = pack(gate.source()), up_matrix = pack(up.source());
      for (const Activation kind :
           {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu})
        for (const Candidate& candidate : candidates()) {
          const LinearKernels& kernels = *candidate.kernels;
          const auto opened = run(kernels, gate, gate_matrix, {whole(gate, gate_matrix)}, true);
          const auto lifted = run(kernels, up, up_matrix, {whole(up, up_matrix)}, true);
          std::vector<float> expected(opened.size()), got(opened.size());
          kernels.gate(kind, opened.data(), lifted.data(), expected.data(), int64_t(got.size()));
          const GatedProduct product{&gate_matrix, &up_matrix, gate.bias.data(), up.bias.data(),
                                     kind,         got.data(), shape.outputs};
          Block block(rows, shape.inputs, 32, 32);
          kernels.quantize_rows(gate.x.data(), shape.inputs, block.block, {0, rows});
          LinearInput input{&block.block, nullptr, 0};
          if (activation_group < 0) input = {nullptr, gate.x.data(), shape.inputs};
          Scratch scratch;
          kernels.multiply_gated(input, product, {{0, rows}, {0, 1}}, scratch);
          kernels.multiply_gated(input, product, {{0, rows}, {1, 3}}, scratch);
          CHECK(first_difference(got, expected) < 0, "%s rows %d", candidate.name.c_str(),
                int(rows));
        }
    }
}

void test_an_embedding_is_the_dequantized_row() {
  for (const CodeFormat codes :
       {CodeFormat::f32, CodeFormat::f16, CodeFormat::bf16, CodeFormat::int8, CodeFormat::int4,
        CodeFormat::int2, CodeFormat::int3, CodeFormat::int5, CodeFormat::int6, CodeFormat::nf4,
        CodeFormat::iq4_nl, CodeFormat::mxfp4})
    for (const OffsetFormat offsets : {OffsetFormat::none, OffsetFormat::minimum_f16}) {
      if (is_codebook(codes) && offsets != OffsetFormat::none) continue;
      const bool dense = codes < CodeFormat::int8;
      const Case c = make_case({1, 19, 80, codes, dense ? 0 : 16, ScaleFormat::f16,
                                dense ? OffsetFormat::none : offsets, -1},
                               9);
      const PackedMatrix matrix = pack(c.source());
      std::vector<float> expected, all(size_t(19 * 80));
      for (int64_t o = 0; o < 19; ++o)
        for (int64_t k = 0; k < 80; ++k) expected.push_back(c.weight(o, k));
      dequantize(matrix, all.data());
      CHECK(first_difference(all, expected) < 0, "dequantize, codes %d", int(codes));
      for (const Candidate& candidate : candidates()) {
        std::vector<float> row(80);
        candidate.kernels->embed_row(matrix, 17, row.data());
        const std::vector<float> wanted(expected.begin() + 17 * 80, expected.begin() + 18 * 80);
        CHECK(first_difference(row, wanted) < 0, "%s codes %d", candidate.name.c_str(), int(codes));
      }
    }
}

void test_an_embedding_of_sparse_weights_is_the_dense_one() {
  for (int which = 0; which < 4; ++which) {
    const CodeFormat codes = which % 2 == 0 ? CodeFormat::int8 : CodeFormat::int4;
    const Sparsity sparsity = which < 2 ? Sparsity::two_of_four : Sparsity::masked;
    Shape shape{1, 19, 90, codes, 90, ScaleFormat::f16, OffsetFormat::none, -1};
    shape.sparsity = Sparsity::two_of_four;
    Case c = make_case(shape, 10);
    c.shape.sparsity = sparsity;
    const PackedMatrix sparse = pack(c.source());
    c.shape.sparsity = Sparsity::none;
    const PackedMatrix dense = pack(c.source());
    CHECK(sparse.panel_bytes() < dense.panel_bytes(), "case %d: not smaller", which);
    for (const Candidate& candidate : candidates())
      for (int64_t o = 0; o < 19; ++o) {
        std::vector<float> got(90), expected(90);
        candidate.kernels->embed_row(sparse, o, got.data());
        candidate.kernels->embed_row(dense, o, expected.data());
        CHECK(first_difference(got, expected) < 0, "%s case %d", candidate.name.c_str(), which);
      }
  }
}

Case masked_case(CodeFormat codes, uint32_t seed) {
  Shape shape{3, 40, 96, codes, 32, ScaleFormat::f16, OffsetFormat::none, 32};
  shape.sparsity = Sparsity::masked;
  return make_case(shape, seed);
}

void test_masks_cost_a_bit_a_weight_and_the_codes_that_are_kept() {
  for (const CodeFormat codes : {CodeFormat::int8, CodeFormat::int4}) {
    Case c = masked_case(codes, 20);
    const auto everything = std::numeric_limits<int64_t>::max();
    c.codes.assign(c.codes.size(), codes == CodeFormat::int8 ? 0 : 0x88);
    const MaskedSize none = masked_size(c.source(), {0, 3}, everything);
    CHECK(none.kept == 0 && none.panel_bytes == 128 * 16 / 8, "codes %d: only masks", int(codes));
    c.codes.assign(c.codes.size(), 0x11);
    const MaskedSize all = masked_size(c.source(), {0, 3}, everything);
    const int64_t of_codes = 96 * 16 * (codes == CodeFormat::int8 ? 8 : 4) / 8;
    CHECK(all.kept == 40 * 96 && all.panel_bytes == 128 * 16 / 8 + of_codes, "codes %d: all kept",
          int(codes));
    const MaskedSize cut = masked_size(c.source(), {0, 3}, 300);
    CHECK(cut.kept == 16 * 96 && cut.panel_bytes > 300, "codes %d: the first is too full",
          int(codes));
    SourceMatrix tight = c.source();
    tight.code_bytes = 512;
    CHECK(refuses([&] { pack(tight); }), "codes %d: a panel without room", int(codes));
  }
}

// Masks of ones in place of the real ones lead past every panel: no read leaves the matrix, which
// the address sanitizer sees.
void test_damaged_masks_lead_no_reader_out_of_the_matrix() {
  for (const CodeFormat codes : {CodeFormat::int8, CodeFormat::int4}) {
    Case c = masked_case(codes, 21);
    c.codes.assign(c.codes.size(), codes == CodeFormat::int8 ? 0 : 0x88);
    const PackedMatrix good = pack(c.source());
    AlignedBuffer bytes(good.size_bytes());
    std::memset(bytes.data(), 0xff, good.size_bytes());
    const std::shared_ptr<const void> owner(bytes.data(), [](const void*) {});
    const PackedMatrix bad(good.format(), 40, 96, owner, bytes.data(), good.size_bytes());
    for (const Candidate& candidate : candidates())
      for (const int64_t rows : {1, 3}) {
        c.shape.rows = rows;
        const auto y = run(*candidate.kernels, c, bad, {whole(c, bad)}, false);
        std::vector<float> row(96);
        candidate.kernels->embed_row(bad, 39, row.data());
        CHECK(y.size() == size_t(rows * 40), "%s", candidate.name.c_str());
      }
  }
}

void test_two_of_four_is_seen_output_by_output() {
  for (const CodeFormat codes : {CodeFormat::int8, CodeFormat::int4}) {
    const int64_t width = codes == CodeFormat::int8 ? 10 : 5;  // bytes of ten inputs
    const uint8_t none = codes == CodeFormat::int8 ? 0 : 0x88;
    Shape shape{1, 3, 10, codes, 10, ScaleFormat::f16, OffsetFormat::none, -1};
    Case c = make_case(shape, 13);
    c.codes.assign(size_t(3 * width), none);
    c.codes[size_t(width)] = 0x11;       // output 1: the first inputs, one or two of them
    c.codes[size_t(3 * width - 1)] = 1;  // output 2: the last one or two
    CHECK(two_of_four(c.source(), {0, 3}), "codes %d: sparse", int(codes));
    for (int64_t i = 0; i < (codes == CodeFormat::int8 ? 4 : 2); ++i) c.codes[size_t(i)] = 0x11;
    CHECK(!two_of_four(c.source(), {0, 3}), "codes %d: four of four", int(codes));
    CHECK(two_of_four(c.source(), {1, 3}), "codes %d: only the first is full", int(codes));
  }
}

void test_nan_and_infinity_stay_in_their_rows() {
  for (const int64_t activation_group : {int64_t(32), kFloatRows, kBfloatRows}) {
    Shape shape = activation_group == kBfloatRows ? kBf16 : kInt4;
    shape.rows = 18;
    shape.activation_group = activation_group;
    Case c = make_case(shape, 11);
    const PackedMatrix matrix = pack(c.source());
    const auto clean = naive(c, false);
    c.x[size_t(2 * shape.inputs + 40)] = NAN;
    c.x[size_t(16 * shape.inputs + 3)] = INFINITY;
    for (const Candidate& candidate : candidates()) {
      const auto y = run(*candidate.kernels, c, matrix, {whole(c, matrix)}, false);
      int wrong = 0;
      for (int64_t r = 0; r < shape.rows; ++r)
        for (int64_t o = 0; o < shape.outputs; ++o) {
          const size_t at = size_t(r * shape.outputs + o);
          const bool spoiled = r == 2 || r == 16;
          wrong += spoiled ? std::isfinite(y[at]) : bits_of(y[at]) != bits_of(clean[at]);
        }
      CHECK(wrong == 0, "%s activations %d: %d", candidate.name.c_str(), int(activation_group),
            wrong);
    }
  }
}

void test_packing_in_ranges_is_packing_at_once() {
  const Case c =
      make_case({1, 70, 64, CodeFormat::int4, 32, ScaleFormat::f16, OffsetFormat::zero_u8, -1}, 12);
  const PackedMatrix whole = pack(c.source());
  PackedMatrix parts(packed_format(c.source()), 70, 64);
  for (const Range panels : {Range{3, 5}, Range{0, 1}, Range{1, 3}})
    pack(c.source(), parts, panels);
  CHECK(std::memcmp(whole.codes(0), parts.codes(0), whole.size_bytes()) == 0, "panels differ");
}

void test_what_has_no_kernel_is_refused() {
  const MatrixFormat g24{CodeFormat::int4, 24, ScaleFormat::f16, false, ScaleFormat::f16};
  CHECK(refuses([&] { PackedMatrix(g24, 16, 48); }), "group 24");
  const MatrixFormat g32{CodeFormat::int4, 32, ScaleFormat::f16, false, ScaleFormat::f16};
  CHECK(refuses([&] { PackedMatrix(g32, 16, 48); }), "a group that does not divide the inputs");
  CHECK(refuses([&] { PackedMatrix({CodeFormat::int4, 5, ScaleFormat::f16, false, {}}, 16, 5); }),
        "4-bit codes, odd inputs");
  CHECK(refuses([&] { PackedMatrix({CodeFormat::f32, 32, {}, false, {}}, 16, 64); }),
        "a dense matrix with groups");
  CHECK(refuses([&] { PackedMatrix({CodeFormat::int3, 32, {}, false, {}, 1}, 16, 64); }),
        "super-groups of plain scales");
  const MatrixFormat thirds{CodeFormat::int4, 32, ScaleFormat::nested, false, {}, 1};
  CHECK(refuses([&] { PackedMatrix(thirds, 16, 96); }), "three groups in a super-group");
  CHECK(refuses([&] { PackedMatrix({CodeFormat::nf4, 32, {}, true, {}}, 16, 64); }),
        "a codebook with minimums");
  CHECK(refuses([&] { PackedMatrix({}, 0, 64); }), "no outputs");
  Case full = make_case(kInt4, 14);
  full.shape.sparsity = Sparsity::two_of_four;
  CHECK(refuses([&] { pack(full.source()); }), "more than two of four as sparse");
  full.shape.offsets = OffsetFormat::minimum_f16;
  CHECK(refuses([&] { packed_format(full.source()); }), "sparse weights with minimums");
  CHECK(refuses([&] { PackedMatrix({CodeFormat::int8_2of4, 32, {}, true, {}}, 16, 64); }),
        "a sparse format with minimums");
  const auto masked = [](int64_t code_bytes) {
    return MatrixFormat{CodeFormat::int8_masked, 32, {}, false, {}, 0, code_bytes};
  };
  CHECK(!refuses([&] { PackedMatrix(masked(128), 16, 64); }), "masks and no codes");
  CHECK(!refuses([&] { PackedMatrix(masked(128 + 1024), 16, 64); }), "masks and all codes");
  for (const int64_t code_bytes : {-64, 0, 64, 129, 128 + 1024 + 64})
    CHECK(refuses([&] { PackedMatrix(masked(code_bytes), 16, 64); }), "%d bytes by mask",
          int(code_bytes));
  CHECK(refuses([&] { PackedMatrix({CodeFormat::int8, 32, {}, false, {}, 0, 128}, 16, 64); }),
        "a dense format of a length of its own");
  const PackedMatrix g48({CodeFormat::int8, 48, ScaleFormat::f32, false, {}}, 16, 96);
  CHECK(refuses([&] { merge_group(g48, 32); }), "groups 48 and 32");
  CHECK(merge_group(g48, 16) == 16 && merge_group(g48, 0) == 48, "groups 48 and 16");
  CHECK(refuses([&] { ActivationBlock::size_bytes(1, 64, 24, 0); }), "activation group 24");
  CHECK(refuses([&] { ActivationBlock::place(nullptr, 1, 64, -1, 0); }), "activation group -1");
}

}  // namespace
}  // namespace slipstream::test

int main() {
  using namespace slipstream::test;
  test_rows_are_rounded_as_the_naive_loop_does();
  test_a_gated_product_is_its_two_products_and_the_gate();
  test_an_embedding_is_the_dequantized_row();
  test_an_embedding_of_sparse_weights_is_the_dense_one();
  test_masks_cost_a_bit_a_weight_and_the_codes_that_are_kept();
  test_damaged_masks_lead_no_reader_out_of_the_matrix();
  test_two_of_four_is_seen_output_by_output();
  test_nan_and_infinity_stay_in_their_rows();
  test_packing_in_ranges_is_packing_at_once();
  test_what_has_no_kernel_is_refused();
  return report("linear_edges");
}
