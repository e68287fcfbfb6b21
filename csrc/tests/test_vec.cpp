// The vector interface gives the same bits on every instruction set, and the functions of
// kernels/math.h are as close to the exact ones as they say.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "isa/isa.h"
#include "tests/check.h"
#include "tests/vec_probe.h"

#if defined(SLIPSTREAM_TEST_EMULATED)
namespace slipstream::emulated_avx512 {
extern const test::VecProbe vec_probe;
}
#endif

namespace slipstream {

namespace test {
struct VecProbe;
}
SLIPSTREAM_DECLARE_TABLES(test::VecProbe, vec_probe)

namespace test {
namespace {

struct Candidate {
  std::string name;
  const VecProbe* probe;
};

std::vector<Candidate> candidates() {
  std::vector<Candidate> out;
  for (const Isa isa : isas_supported())
    out.push_back({std::string(isa_name(isa)), &SLIPSTREAM_PICK_TABLE(isa, vec_probe)});
#if defined(SLIPSTREAM_TEST_EMULATED)
  if (isa_supported(Isa::avx2)) out.push_back({"emulated avx512", &emulated_avx512::vec_probe});
#endif
  return out;
}

bool same(const float* a, const float* b, int count) {
  for (int i = 0; i < count; ++i)
    if (std::memcmp(a + i, b + i, 4) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  return true;
}

// Any bits; moderate numbers; and the places where things go wrong.
class Inputs {
 public:
  float next() {
    static constexpr float kHard[] = {0.0f,           -0.0f,   INFINITY, -INFINITY,   NAN,
                                      0.5f,           1.5f,    -2.5f,    8388607.5f,  2147483648.0f,
                                      -2147483648.0f, 1e-45f,  3.4e38f,  88.72f,      88.73f,
                                      -103.9f,        -104.1f, 0.625f,   0.927734375f};
    const uint32_t bits = random_();
    float x;
    switch (random_() % 4) {
      case 0:
        std::memcpy(&x, &bits, 4);
        return x;
      case 1:
        return kHard[bits % std::size(kHard)];
      default:
        return std::normal_distribution<float>(0.0f, bits % 2 ? 1.0f : 30.0f)(random_);
    }
  }
  uint16_t half() { return uint16_t(random_()); }

 private:
  std::mt19937 random_{20261120};
};

void test_all_sets_give_the_same_bits() {
  Inputs inputs;
  for (int round = 0; round < 20000; ++round) {
    float a[16], b[16];
    uint16_t halves[16];
    for (int i = 0; i < 16; ++i)
      a[i] = inputs.next(), b[i] = inputs.next(), halves[i] = inputs.half();
    const VecProbe& truth = *candidates()[0].probe;
    for (const Candidate& candidate : candidates()) {
      float expected[96], got[96];
      for (int function = 0; function < kUnaryCount; ++function) {
        truth.unary(function, a, expected);
        candidate.probe->unary(function, a, got);
        CHECK(same(got, expected, 16), "%s %s", candidate.name.c_str(), kUnaryNames[function]);
      }
      truth.binary(a, b, expected);
      candidate.probe->binary(a, b, got);
      CHECK(same(got, expected, 96), "%s binary", candidate.name.c_str());
      truth.reduce(a, expected);
      candidate.probe->reduce(a, got);
      CHECK(same(got, expected, 4), "%s reduce", candidate.name.c_str());
      truth.widen_f16(halves, expected);
      candidate.probe->widen_f16(halves, got);
      CHECK(same(got, expected, 16), "%s f16", candidate.name.c_str());
      std::fill(got, got + 16, 7.0f), std::copy(got, got + 16, expected);
      truth.partial(a, expected, round % 17);
      candidate.probe->partial(a, got, round % 17);
      CHECK(same(got, expected, 16), "%s partial", candidate.name.c_str());
    }
  }
}

double exact(int function, double x) {
  switch (function) {
    case 0:
      return std::exp(x);
    case 1:
      return std::tanh(x);
    case 2:
      return std::erf(x);
    case 3:
      return x / (1 + std::exp(-x));
    case 4:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case 14:
      return std::exp2(x);
    default: {
      const double inner = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
      return 0.5 * x * (1 + std::tanh(inner));
    }
  }
}

// The largest error over [low, high]: in units of the last place of the result, or for gelu, whose
// tail cancels, of max(|result|, 2^-10 · |x|).
double worst_error(int function, float low, float high) {
  const VecProbe& truth = *candidates()[0].probe;
  double worst = 0;
  constexpr int steps = 100000;
  for (int i = 0; i < steps; i += 16) {
    float x[16], y[16];
    for (int j = 0; j < 16; ++j) x[j] = low + (high - low) * float(i + j) / steps;
    truth.unary(function, x, y);
    for (int j = 0; j < 16; ++j) {
      const double wanted = exact(function, double(x[j]));
      const bool cancels = function == 4 || function == 5;
      const double floor = cancels ? std::fabs(double(x[j])) / 1024 : 0.0;
      const double size = std::max({std::fabs(wanted), floor, 1.2e-38});
      const double unit = std::ldexp(1.0, std::ilogb(size) - 23);
      worst = std::max(worst, std::fabs(double(y[j]) - wanted) / unit);
    }
  }
  return worst;
}

void test_functions_are_close_to_the_exact_ones() {
  const struct {
    int function;
    float low, high;
    double limit;
  } claims[] = {{0, -87, 88.7f, 1.1}, {1, -10, 10, 2}, {2, -5, 5, 2},   {3, -80, 80, 3},
                {4, -8, 8, 600},      {5, -8, 8, 600}, {14, -126, 0, 1}};
  for (const auto& claim : claims) {
    const double worst = worst_error(claim.function, claim.low, claim.high);
    std::printf("%-10s worst error %.2f\n", kUnaryNames[claim.function], worst);
    CHECK(worst <= claim.limit, "%s: %.2f", kUnaryNames[claim.function], worst);
  }
}

void test_limits() {
  const float in[16] = {-INFINITY, INFINITY, -104.5f, 89.0f, 0.0f};
  float out[16];
  candidates()[0].probe->unary(0, in, out);
  CHECK(out[0] == 0.0f && out[1] == INFINITY && out[2] == 0.0f && out[3] == INFINITY &&
            out[4] == 1.0f,
        "exp: %g %g %g %g %g", double(out[0]), double(out[1]), double(out[2]), double(out[3]),
        double(out[4]));
}

}  // namespace
}  // namespace test
}  // namespace slipstream

int main() {
  using namespace slipstream::test;
  test_all_sets_give_the_same_bits();
  test_functions_are_close_to_the_exact_ones();
  test_limits();
  return report("vec");
}
