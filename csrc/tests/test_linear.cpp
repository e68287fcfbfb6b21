// Every kernel of every instruction set gives the bits of the naive loop, whatever the shape.
// Usage: test_linear [cases] [seed]; the seed of a failing case is printed.
#include <cstdlib>

#include "tests/check.h"
#include "tests/linear_candidates.h"
#include "tests/linear_random.h"

namespace slipstream::test {
namespace {

// Scales as integers times those of super-groups, as in GGML's K-quants.
void nest(Shape& s, Random& random) {
  const int64_t groups = random.pick<int64_t>({1, 2, 8});
  s.supers = random.integer(1, 2);
  s.inputs = s.group * groups * s.supers;
  s.scales = ScaleFormat::nested;
  if (s.offsets != OffsetFormat::none) s.offsets = OffsetFormat::minimum_nested;
}

Shape random_affine(Random& random, CodeFormat codes) {
  Shape s{};
  s.codes = codes;
  s.rows = random.pick<int64_t>({1, 1, 2, 3, 4, 5, 7, 12, 13, 16, 17, 33, 50});
  s.outputs = random.pick<int64_t>({1, 15, 16, 17, 31, 48});
  s.scales = random.pick({ScaleFormat::f16, ScaleFormat::f32});
  s.offsets = random.pick({OffsetFormat::none, OffsetFormat::minimum_f16, OffsetFormat::minimum_f32,
                           OffsetFormat::zero_u8});
  if (bits_of_code(codes) > 4 && s.offsets == OffsetFormat::zero_u8)
    s.offsets = OffsetFormat::zero_i8;
  if (is_codebook(codes)) {
    s.offsets = OffsetFormat::none;
    if (random.integer(0, 1) == 0) s.scales = ScaleFormat::e8m0;
  }
  if (random.integer(0, 2) == 0) {  // one scale a row, any width
    s.inputs = s.group = random.pick<int64_t>({2, 6, 30, 64, 100, 146, 200, 258});
    s.activation_group = random.pick<int64_t>({-1, 0, 16, 32, 48, 64});
    return s;
  }
  s.group = random.pick<int64_t>({16, 32, 32, 48, 64, 128});
  s.inputs = s.group * random.integer(1, 5);
  if (random.integer(0, 2) == 0) nest(s, random);
  s.activation_group = random.pick<int64_t>({-1, 0, s.group, s.group, 2 * s.group});
  if (s.group % 32 == 0 && random.integer(0, 2) == 0) s.activation_group = s.group / 2;
  return s;
}

// Symmetric weights with zeros, as pruning leaves them.
Shape random_sparse(Random& random, CodeFormat codes) {
  Shape s = random_affine(random, codes);
  s.offsets = OffsetFormat::none;
  if (s.scales == ScaleFormat::nested) s.scales = ScaleFormat::f16;
  s.supers = 0;
  s.sparsity = random.pick({Sparsity::two_of_four, Sparsity::masked});
  return s;
}

Shape random_dense(Random& random, CodeFormat codes) {
  Shape s{};
  s.codes = codes;
  s.rows = random.pick<int64_t>({1, 2, 3, 5, 6, 7, 12, 14, 50});
  s.outputs = random.pick<int64_t>({1, 15, 16, 33, 49});
  s.inputs = random.pick<int64_t>({1, 3, 16, 65, 255, 256, 257, 300});
  const bool bfloat = codes == CodeFormat::bf16 && random.integer(0, 2) != 0;
  s.activation_group = bfloat ? kBfloatRows : kFloatRows;
  return s;
}

// Parts in the manner of threads: rows and panels cut at random places.
std::vector<Part> random_parts(const Case& c, const PackedMatrix& matrix, Random& random) {
  const int64_t row = random.integer(0, c.shape.rows), panel = random.integer(0, matrix.panels());
  return {{{0, row}, {0, panel}},
          {{row, c.shape.rows}, {0, panel}},
          {{0, c.shape.rows}, {panel, matrix.panels()}}};
}

void check_case(const Shape& shape, uint32_t seed) {
  const Case c = make_case(shape, seed);
  Random random(seed + 1);
  const PackedMatrix matrix = pack(c.source());
  const bool bias = random.integer(0, 1) == 1;
  const std::vector<float> expected = naive(c, bias);
  for (const Candidate& candidate : candidates()) {
    const auto once = run(*candidate.kernels, c, matrix, {whole(c, matrix)}, bias);
    int64_t at = first_difference(once, expected);
    CHECK(at < 0, "%s, seed %u, %s: output %d is %a, not %a", candidate.name.c_str(), seed,
          shape.name().c_str(), int(at), double(once[size_t(at)]), double(expected[size_t(at)]));
    const auto parts = random_parts(c, matrix, random);
    const LinearChoice choice{random.pick({1, 4, 12, 64}), random.pick({0, 1024, 65536})};
    const auto cut = run(*candidate.kernels, c, matrix, parts, bias, choice);
    at = first_difference(cut, expected);
    CHECK(at < 0, "%s in parts, direct %d, seed %u, %s: output %d", candidate.name.c_str(),
          int(choice.direct_rows), seed, shape.name().c_str(), int(at));
  }
}

// Prefill in small: several chunks of rows, many panels.
void check_large() {
  check_case({300, 80, 576, CodeFormat::int4, 32, ScaleFormat::f16, OffsetFormat::minimum_f16, 32},
             1);
  check_case({70, 40, 1024, CodeFormat::int4, 128, ScaleFormat::f16, OffsetFormat::none, 128}, 2);
  check_case({70, 40, 1024, CodeFormat::int8, 64, ScaleFormat::f32, OffsetFormat::none, 64}, 3);
  check_case({130, 40, 576, CodeFormat::bf16, 0, ScaleFormat::f32, OffsetFormat::none, -1}, 4);
  check_case({130, 72, 576, CodeFormat::bf16, 0, ScaleFormat::f32, OffsetFormat::none, kBfloatRows},
             9);
  check_case({70, 40, 1024, CodeFormat::int8, 64, ScaleFormat::f32, OffsetFormat::none, 64, 0,
              Sparsity::two_of_four},
             5);
  check_case({70, 40, 576, CodeFormat::int4, 32, ScaleFormat::f16, OffsetFormat::none, 32, 0,
              Sparsity::two_of_four},
             6);
  check_case({70, 40, 1024, CodeFormat::int8, 64, ScaleFormat::f16, OffsetFormat::none, 64, 0,
              Sparsity::masked},
             7);
  check_case({70, 40, 576, CodeFormat::int4, 32, ScaleFormat::f16, OffsetFormat::none, 32, 0,
              Sparsity::masked},
             8);
}

}  // namespace
}  // namespace slipstream::test

int main(int argc, char** argv) {
  using namespace slipstream::test;
  const int cases = argc > 1 ? std::atoi(argv[1]) : 250;
  const auto seed = uint32_t(argc > 2 ? std::atoi(argv[2]) : 20261120);
  for (uint32_t i = 0; i < uint32_t(cases); ++i) {
    Random random(seed + 10 * i);
    const auto codes = random.pick(
        {slipstream::CodeFormat::int4, slipstream::CodeFormat::int4, slipstream::CodeFormat::int8,
         slipstream::CodeFormat::int2, slipstream::CodeFormat::int3, slipstream::CodeFormat::int3,
         slipstream::CodeFormat::int5, slipstream::CodeFormat::int6, slipstream::CodeFormat::nf4,
         slipstream::CodeFormat::iq4_nl, slipstream::CodeFormat::mxfp4,
         slipstream::CodeFormat::int8, slipstream::CodeFormat::f32, slipstream::CodeFormat::f16,
         slipstream::CodeFormat::bf16, slipstream::CodeFormat::bf16});
    const bool affine = codes >= slipstream::CodeFormat::int8;
    check_case(affine ? random_affine(random, codes) : random_dense(random, codes), seed + 10 * i);
  }
  for (uint32_t i = 0; i < uint32_t(cases) * 2 / 3; ++i) {
    Random random(seed + 10 * i + 5);
    const auto codes = random.pick({slipstream::CodeFormat::int8, slipstream::CodeFormat::int4});
    check_case(random_sparse(random, codes), seed + 10 * i + 5);
  }
  check_large();
  return report("linear");
}
