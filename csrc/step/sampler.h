// Draws the tokens of a step's rows: the arg-max of logits / T + Gumbel noise over what top-k,
// top-p, min-p and typical-p keep. Same tokens as src/slipstream/engine/sampler.py, which is the
// reference.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/sample.h"
#include "step/team.h"

namespace slipstream {

// What a drawn token can be instead of an id.
constexpr std::int64_t kNotFinite = -1;  // a logit is NaN or +infinity
constexpr std::int64_t kNoneLeft = -2;   // every logit is -infinity

// How one row is drawn from; with a temperature of 0 only the highest counts.
struct DrawRule {
  double temperature;
  float inverse;          // of the temperature, as exact.py's inverse_of gives it
  std::int64_t top_k;     // 0: all
  double top_p;           // 1: all
  double score_lowest;    // the logarithm of min_p; -infinity: all
  double typical_p;       // 1: all
  std::uint64_t keys[3];  // noise.py's noise_keys: of ids, of blocks' peaks, of their winners
};

struct DrawRow {
  const float* logits;
  DrawRule rule;
};

class Sampler {
 public:
  Sampler(Isa isa, int threads) : kernels_(sample_kernels(isa)), team_(threads) {}

  // tokens[i] of rows[i], each of `vocabulary` logits.
  void draw(const std::vector<DrawRow>& rows, std::int64_t vocabulary, std::int64_t* tokens);

  // totals[i] = the sum of e^(logit - highest) of row i, times 2^30; highest[i] with it.
  void totals(const std::vector<const float*>& rows, std::int64_t vocabulary, double* totals,
              float* highest);

  // The ids of the k highest logits, the highest first; among equals the lowest id first.
  std::vector<std::int64_t> top(const float* logits, std::int64_t vocabulary, std::int64_t k) const;

 private:
  // Runs work(i) for all i below count, on the team where there is enough of it.
  template <class Work>
  void share(int count, Work work);

  const SampleKernels& kernels_;
  Team team_;
};

}  // namespace slipstream
