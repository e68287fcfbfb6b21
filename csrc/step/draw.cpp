#include "step/draw.h"

#include <algorithm>
#include <cmath>

namespace slipstream {

std::int64_t Draw::token(const SampleKernels& kernels, const DrawRow& row, std::int64_t count) {
  begin(kernels, row.logits, count);
  rule_ = &row.rule;
  if (!find_best()) return kNotFinite;
  if (best_ == -INFINITY) return kNoneLeft;
  if (rule_->temperature == 0 || rule_->top_k == 1) return first_of_best();
  const bool all = rule_->top_k == 0 && rule_->top_p == 1 && rule_->score_lowest == -INFINITY &&
                   rule_->typical_p == 1;
  if (all) return race_of_all();
  keep();
  return race_of_kept();
}

std::vector<std::int64_t> Draw::top(const SampleKernels& kernels, const float* logits,
                                    std::int64_t count, std::int64_t k) {
  begin(kernels, logits, count);
  find_best();
  take_top(k);
  std::sort(kept_.begin(), kept_.end(), likelier);
  std::vector<std::int64_t> ids;
  for (const Candidate& candidate : kept_) ids.push_back(candidate.id);
  return ids;
}

double Draw::total(const SampleKernels& kernels, const float* logits, std::int64_t count,
                   float& highest) {
  begin(kernels, logits, count);
  const bool finite = find_best();
  highest = best_;
  return finite ? kernels_->total_weight(logits_, count_, highest_.data(), best_, 1.0f) : NAN;
}

void Draw::begin(const SampleKernels& kernels, const float* logits, std::int64_t count) {
  kernels_ = &kernels;
  logits_ = logits;
  count_ = count;
}

bool Draw::find_best() {
  highest_.resize((count_ + kNoiseBlock - 1) / kNoiseBlock);
  const bool finite = kernels_->find_highest(logits_, count_, highest_.data());
  best_ = finite ? *std::max_element(highest_.begin(), highest_.end()) : NAN;
  return finite;
}

std::int64_t Draw::first_of_best() const {
  const auto block = std::find(highest_.begin(), highest_.end(), best_) - highest_.begin();
  return std::find(logits_ + block * kNoiseBlock, logits_ + count_, best_) - logits_;
}

}  // namespace slipstream
