// A group stays in the first-level cache while every candidate is tried on it. Sums are kept in 16
// lanes and added up in the fixed tree of isa/vec.h.

#include "kernels/spans.h"

#include "isa/vec.h"

namespace slipstream::SLIPSTREAM_ISA {
namespace {

void ends(const float* x, std::int64_t groups, std::int64_t width, float* least, float* most) {
  for (std::int64_t group = 0; group < groups; ++group, x += width) {
    f32x16 low = load(x), high = low;
    for (std::int64_t i = 16; i < width; i += 16) {
      low = min(low, load(x + i));
      high = max(high, load(x + i));
    }
    least[group] = -max_of(zero_f32() - low);
    most[group] = max_of(high);
  }
}

struct Candidate {
  float scale, inverse, shift, low, high;  // codes are counted from the zero
};

Candidate candidate_of(const SpanSearch& search, std::int64_t place) {
  const float scale = search.scales[place], zero = search.zeros[place];
  const float first = search.by_minimum ? 0.0f : zero;
  return {scale, scale == 0.0f ? 0.0f : 1.0f / scale, search.by_minimum ? zero : 0.0f,
          search.low - first, search.high - first};
}

template <bool weighted>
float error_of(const Candidate& span, const float* x, const float* importance, std::int64_t width) {
  const f32x16 scale = set1(span.scale), inverse = set1(span.inverse), shift = set1(span.shift);
  const f32x16 low = set1(span.low), high = set1(span.high);
  f32x16 total = zero_f32();
  for (std::int64_t i = 0; i < width; i += 16) {
    const f32x16 value = load(x + i) - shift;
    const f32x16 code = min(max(round_even(value * inverse), low), high);
    const f32x16 error = code * scale - value;
    total = fma(weighted ? error * load(importance + i) : error, error, total);
  }
  return sum(total);
}

template <bool weighted>
void try_all(const SpanSearch& search, float* errors) {
  for (std::int64_t group = 0; group < search.groups; ++group) {
    const float* x = search.values + group * search.width;
    const float* importance =
        weighted ? search.importance + group % search.kinds * search.width : nullptr;
    for (std::int64_t tried = 0; tried < search.candidates; ++tried) {
      const std::int64_t place = tried * search.groups + group;
      errors[place] = error_of<weighted>(candidate_of(search, place), x, importance, search.width);
    }
  }
}

void squared_errors(const SpanSearch& search, float* errors) {
  if (search.importance != nullptr) {
    try_all<true>(search, errors);
  } else {
    try_all<false>(search, errors);
  }
}

}  // namespace

extern const SpanKernels span_table = {ends, squared_errors};

}  // namespace slipstream::SLIPSTREAM_ISA
