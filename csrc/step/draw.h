// One row's draw: from cheap bounds to exact results, looking only at what can win. What is skipped
// never changes the token. Used by csrc/step/sampler.cpp, one by thread; it keeps its workspaces,
// so that draws do not allocate.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/sample.h"
#include "step/sampler.h"

namespace slipstream {

class Draw {
 public:
  // The id that is drawn, or kNotFinite, or kNoneLeft.
  std::int64_t token(const SampleKernels& kernels, const DrawRow& row, std::int64_t count);

  // The ids of the k highest logits, the highest first; among equals the lowest id first.
  std::vector<std::int64_t> top(const SampleKernels& kernels, const float* logits,
                                std::int64_t count, std::int64_t k);

  // The sum of the weights at a temperature of 1, and the highest logit (NaN if one is not finite).
  double total(const SampleKernels& kernels, const float* logits, std::int64_t count,
               float& highest);

 private:
  struct Candidate {
    std::uint64_t rank;  // the higher the likelier; among equal logits the lower id is higher
    std::int64_t id;
    double weight;
  };

  // Who has the highest result so far; among equals the lowest id.
  struct Leader {
    double result = -std::numeric_limits<double>::infinity();
    std::int64_t id = -1;

    void meet(double other, std::int64_t other_id) {
      if (id < 0 || other > result || (other == result && other_id < id)) {
        result = other;
        id = other_id;
      }
    }
  };

  void begin(const SampleKernels& kernels, const float* logits, std::int64_t count);
  bool find_best();
  std::int64_t first_of_best() const;
  double score(float logit) const { return (double(logit) - double(best_)) / rule_->temperature; }

  // draw_filters.cpp: the candidates, in kept_; each filter sees what the one before left.
  static bool likelier(const Candidate& a, const Candidate& b) { return a.rank > b.rank; }
  void keep();
  float logit_at(double lowest) const;  // below it no score reaches `lowest`, rounding included
  void take_from(float lowest);         // all from this logit on
  void take_top(std::int64_t k);
  void take_top_p();
  void take_flat(double wanted);
  void weigh();
  void take_typical();
  void cut_to_nearest(double wanted);
  double total_of_kept() const;
  void cut_to(double wanted);
  int bucket_of(float logit) const;

  // draw_race.cpp: the arg-max of score + noise.
  std::int64_t race_of_all();
  void run_block(std::int64_t block, Leader& leader);
  std::int64_t race_of_kept();
  Leader race_of(const Candidate* candidates, std::size_t count, Leader leader);
  void find_peaks(const std::int64_t* blocks, std::size_t count);

  const SampleKernels* kernels_ = nullptr;
  const float* logits_ = nullptr;
  const DrawRule* rule_ = nullptr;
  std::int64_t count_ = 0;
  float best_ = 0;
  std::vector<float> highest_;  // of each block of kNoiseBlock logits
  std::vector<float> scratch_;
  std::vector<double> lowest_, peaks_;  // of blocks: the least exponential, the highest noise
  std::vector<double> bounds_, results_, sums_;
  std::vector<std::int64_t> ids_;
  std::vector<Candidate> kept_;
};

}  // namespace slipstream
