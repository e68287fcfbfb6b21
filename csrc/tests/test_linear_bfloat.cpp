// bfloat16 rows at their edges: rounding, numbers too small to be normal, gates.
// Every instruction set gives the bits of the plain loops; test_linear.cpp has the random shapes,
// test_linear_edges.cpp NaN and infinity.
#include <cfloat>

#include "tests/check.h"
#include "tests/linear_candidates.h"
#include "tests/linear_random.h"

namespace slipstream::test {
namespace {

constexpr Shape kDense{
    18, 40, 96, CodeFormat::bf16, 0, ScaleFormat::f32, OffsetFormat::none, kBfloatRows};

uint16_t upper_half(float x) { return uint16_t(bits_of(x) >> 16); }

void test_rows_are_rounded_to_nearest_even_and_padded() {
  for (const int64_t inputs : {1, 16, 50, 64, 130}) {
    Case c = make_case(
        {7, 1, inputs, CodeFormat::bf16, 0, ScaleFormat::f32, OffsetFormat::none, kBfloatRows},
        uint32_t(inputs));
    c.x[0] = float_of(0x3f808000);               // halfway, down to even
    c.x[size_t(inputs)] = float_of(0x3f818000);  // halfway, up to even
    c.x[size_t(2 * inputs)] = FLT_MAX;           // becomes infinity
    c.x[size_t(3 * inputs)] = float_of(0x7f800001);
    const int64_t padded = (inputs + 63) / 64 * 64;
    for (const Candidate& candidate : candidates()) {
      const std::vector<uint16_t> got = bfloats(*candidate.kernels, c, padded);
      int wrong = 0;
      for (int64_t r = 0; r < 7; ++r)
        for (int64_t k = 0; k < padded; ++k) {
          const float value = float_of(uint32_t(got[size_t(r * padded + k)]) << 16);
          const float x = k < inputs ? naive_bfloat(c.x[size_t(r * inputs + k)]) : 0.0f;
          wrong += std::isnan(x) ? !std::isnan(value) : bits_of(value) != bits_of(x);
        }
      CHECK(wrong == 0, "%s inputs %d: %d wrong", candidate.name.c_str(), int(inputs), wrong);
    }
  }
}

// Rows and weights below, at and above the least normal number, and products that fall below it.
Case tiny_case() {
  Case c = make_case(kDense, 22);
  Random random(23);
  const auto tiny = [&] {
    return random.pick({1e-39f, -1e-39f, FLT_MIN, -FLT_MIN, 1e-25f, -1e-20f, 1e-13f, 0.0f});
  };
  for (float& x : c.x) x = tiny();
  for (size_t i = 0; i < c.codes.size(); i += 2) {
    const uint16_t half = upper_half(tiny());
    std::memcpy(&c.codes[i], &half, 2);
  }
  return c;
}

void test_subnormal_numbers_are_zeros_here_and_nowhere_else() {
  Case c = tiny_case();
  const PackedMatrix matrix = pack(c.source());
  const auto expected = naive(c, false);
  int64_t zeros = 0;
  for (const float y : expected) zeros += y == 0.0f;
  CHECK(zeros > 0 && zeros < int64_t(expected.size()), "%d zeros say little", int(zeros));
  for (float& bias : c.bias) bias = FLT_MIN / 4;  // is added as it is
  const auto biased = naive(c, true);
  for (const Candidate& candidate : candidates()) {
    const auto y = run(*candidate.kernels, c, matrix, {whole(c, matrix)}, false);
    CHECK(first_difference(y, expected) < 0, "%s", candidate.name.c_str());
    const auto with_bias = run(*candidate.kernels, c, matrix, {whole(c, matrix)}, true);
    CHECK(first_difference(with_bias, biased) < 0, "%s, bias", candidate.name.c_str());
    volatile float least = FLT_MIN;
    CHECK(least / 2 > 0.0f, "%s leaves the mode behind", candidate.name.c_str());
  }
}

void test_a_gated_product_is_its_two_products_and_the_gate() {
  for (const int64_t rows : {1, 2, 7, 16, 33}) {
    Shape shape = kDense;
    shape.rows = rows;
    const Case gate = make_case(shape, 24);
    Case up = make_case(shape, 25);
    up.x = gate.x;
    const PackedMatrix gate_matrix = pack(gate.source()), up_matrix = pack(up.source());
    for (const Candidate& candidate : candidates()) {
      const LinearKernels& kernels = *candidate.kernels;
      const auto opened = run(kernels, gate, gate_matrix, {whole(gate, gate_matrix)}, true);
      const auto lifted = run(kernels, up, up_matrix, {whole(up, up_matrix)}, true);
      std::vector<float> expected(opened.size()), got(opened.size());
      kernels.gate(Activation::silu, opened.data(), lifted.data(), expected.data(),
                   int64_t(got.size()));
      const GatedProduct product{&gate_matrix,     &up_matrix, gate.bias.data(), up.bias.data(),
                                 Activation::silu, got.data(), shape.outputs};
      const int64_t padded = gate_matrix.inputs_padded();
      const auto halves = bfloats(kernels, gate, padded);
      const LinearInput input{nullptr, nullptr, padded, halves.data()};
      Scratch scratch;
      kernels.multiply_gated(input, product, {{0, rows}, {0, 1}}, scratch);
      kernels.multiply_gated(input, product, {{0, rows}, {1, 3}}, scratch);
      CHECK(first_difference(got, expected) < 0, "%s rows %d", candidate.name.c_str(), int(rows));
    }
  }
}

}  // namespace
}  // namespace slipstream::test

int main() {
  using namespace slipstream::test;
  test_rows_are_rounded_to_nearest_even_and_padded();
  test_subnormal_numbers_are_zeros_here_and_nowhere_else();
  test_a_gated_product_is_its_two_products_and_the_gate();
  return report("linear bfloat");
}
