// No fused operations here: the Python reference has none. Loops over doubles are plain, in pieces
// of a size that the compiler knows, and are left to it to vectorize.

#include "kernels/sample.h"

#include <cmath>
#include <cstring>

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

constexpr float kWeightless = -21.75f;  // e^-21.49 is 2^-31: weights below are 0
constexpr int kPiece = 16;              // numbers that the loops below take at a time

// e^x for x ≤ 0, not below e^-30; exact.py says the same in numpy.
SLIPSTREAM_INLINE f32x16 exp_plain(f32x16 x) {
  const f32x16 bounded = max(x, set1(-30.0f));
  const f32x16 turns = round_even(bounded * set1(1.44269504f));
  f32x16 r = bounded - turns * set1(0.693145752f);
  r = r - turns * set1(1.42860677e-6f);
  f32x16 p = set1(1.98756912e-4f);
  p = p * r + set1(1.39819994e-3f);
  p = p * r + set1(8.33345205e-3f);
  p = p * r + set1(4.16657962e-2f);
  p = p * r + set1(1.66666657e-1f);
  p = p * r + set1(5.00000000e-1f);
  p = p * (r * r) + r;
  p = p + set1(1.0f);
  const i32x16 power = shift_left<23>(to_i32(turns) + set1_i32(127));
  return p * as_f32(power);
}

// Weights as whole numbers, which makes their sums exact in any order.
SLIPSTREAM_INLINE i32x16 weigh_piece(const float* x, f32x16 highest, f32x16 inverse) {
  return to_i32(exp_plain((load(x) - highest) * inverse) * set1(float(kWeightOne)));
}

// The last piece of a row, filled up with what weighs nothing.
SLIPSTREAM_INLINE const float* whole_piece(const float* x, std::int64_t left, float* padded) {
  if (left >= kPiece) return x;
  for (int i = 0; i < kPiece; ++i) padded[i] = i < left ? x[i] : -INFINITY;
  return padded;
}

void weigh(const float* x, std::int64_t count, float highest, float inverse, double* out) {
  alignas(64) float padded[kPiece];
  alignas(64) std::int32_t values[kPiece];
  for (std::int64_t i = 0; i < count; i += kPiece) {
    const float* from = whole_piece(x + i, count - i, padded);
    store_i32(values, weigh_piece(from, set1(highest), set1(inverse)));
    const int n = count - i < kPiece ? int(count - i) : kPiece;
    for (int j = 0; j < n; ++j) out[i + j] = double(values[j]);
  }
}

double total_weight(const float* x, std::int64_t count, const float* blocks, float highest,
                    float inverse) {
  alignas(64) float padded[kPiece];
  // Halves of 16 bits, each summed by lane: at most 2^15 pieces, so that no lane overflows.
  i32x16 low = zero_i32(), high = zero_i32();
  for (std::int64_t start = 0; start < count; start += kNoiseBlock) {
    if ((blocks[start / kNoiseBlock] - highest) * inverse < kWeightless) continue;
    const std::int64_t end = start + kNoiseBlock < count ? start + kNoiseBlock : count;
    for (std::int64_t i = start; i < end; i += kPiece) {
      const float* from = whole_piece(x + i, end - i, padded);
      const i32x16 weight = weigh_piece(from, set1(highest), set1(inverse));
      low = low + (weight & set1_i32(0xffff));
      high = high + shift_right<16>(weight);
    }
  }
  alignas(64) std::int32_t lows[kPiece], highs[kPiece];
  store_i32(lows, low);
  store_i32(highs, high);
  double total = 0;
  for (int j = 0; j < kPiece; ++j) total += double(highs[j]) * 65536.0 + double(lows[j]);
  return total;
}

bool find_highest(const float* x, std::int64_t count, float* highest) {
  alignas(64) float padded[kPiece];
  f32x16 strange = zero_f32();  // no longer 0 once a NaN or an infinity was met
  for (std::int64_t start = 0; start < count; start += kNoiseBlock) {
    const int size = count - start < kNoiseBlock ? int(count - start) : kNoiseBlock;
    f32x16 best = set1(-INFINITY);
    for (int i = 0; i < size; i += kPiece) {
      const f32x16 v = load(whole_piece(x + start + i, size - i, padded));
      best = max(v, best);
      strange = strange + select(less(v, set1(INFINITY)), zero_f32(), v);
    }
    highest[start / kNoiseBlock] = max_of(best);
  }
  alignas(64) float lanes[kPiece];
  store(lanes, strange);
  for (float lane : lanes) {
    if (!(lane == 0.0f)) return false;
  }
  return true;
}

SLIPSTREAM_INLINE double as_double(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

SLIPSTREAM_INLINE std::uint64_t as_bits(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}

// A whole number below 2^52 as a double, exactly, without a conversion that AVX2 lacks.
SLIPSTREAM_INLINE double from_whole(std::uint64_t number) {
  return as_double(number | 0x4330000000000000u) - 0x1p52;
}

SLIPSTREAM_INLINE double log_one(double x) {
  constexpr std::uint64_t half_root = 0x3FE6A09E00000000u, one = 0x3FF0000000000000u;
  const std::uint64_t bits = as_bits(x) + (one - half_root);
  const double k = from_whole(bits >> 52) - 1023.0;
  const double f = as_double((bits & 0x000FFFFFFFFFFFFFu) + half_root) - 1.0;
  const double s = f / (f + 2.0);
  const double z = s * s;
  const double w = z * z;
  const double even = w * (3.999999999940941908e-01 +
                           w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
  const double odd = z * (6.666666666666735130e-01 +
                          w * (2.857142874366239149e-01 +
                               w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
  const double half_square = (f * 0.5) * f;
  return s * (half_square + (odd + even)) + k * 1.90821492927058770002e-10 - half_square + f +
         k * 6.93147180369123816490e-01;
}

SLIPSTREAM_INLINE void logs_piece(const double* x, double* out) {
  for (int i = 0; i < kPiece; ++i) out[i] = log_one(x[i]);
}

void logs(const double* x, std::int64_t count, double* out) {
  double values[kPiece], results[kPiece];
  for (std::int64_t i = 0; i < count; i += kPiece) {
    const int n = count - i < kPiece ? int(count - i) : kPiece;
    for (int j = 0; j < kPiece; ++j) values[j] = j < n ? x[i + j] : 1.0;
    logs_piece(values, results);
    std::memcpy(out + i, results, sizeof(double) * n);
  }
}

void exponentials(std::uint64_t key, const std::int64_t* numbers, std::int64_t first,
                  std::int64_t count, double scale, double* out) {
  std::uint64_t bits[kPiece];
  double uniform[kPiece], results[kPiece];
  for (std::int64_t i = 0; i < count; i += kPiece) {
    const int n = count - i < kPiece ? int(count - i) : kPiece;
    for (int j = 0; j < kPiece; ++j) {
      const std::int64_t place = j < n ? i + j : i;
      bits[j] = noise_hash(key, std::uint64_t(numbers ? numbers[place] : first + place));
    }
    for (int j = 0; j < kPiece; ++j) {
      uniform[j] = (from_whole(bits[j] >> 12) + 0.5) * 0x1p-52;
    }
    logs_piece(uniform, results);
    for (int j = 0; j < kPiece; ++j) results[j] = -results[j] * scale;
    std::memcpy(out + i, results, sizeof(double) * n);
  }
}

}  // namespace

extern const SampleKernels sample_table = {find_highest, exponentials, logs, weigh, total_weight};

}  // namespace slipstream::SLIPSTREAM_ISA
