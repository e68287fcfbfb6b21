// Which candidates top-k, top-p, min-p and typical-p leave. Weights are whole numbers whose sums
// are exact, so that nothing needs to be sorted but the few that decide.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>

#include "step/draw.h"

namespace slipstream {
namespace {

constexpr int kBuckets = 2048;        // of scores, by which top-p sorts
constexpr float kBucketsEnd = 32;     // as far below the highest as a weight can be above 0
constexpr double kWeightless = -23;   // from this score down every weight is 0
constexpr double kTiniest = 1e-30;    // of temperatures whose inverse is not cut off
constexpr double kCuts[] = {-4, -8};  // scores down to which top-p looks before it looks at all

// Floats in the order of unsigned numbers; -0 and 0 are equal, as logits.
std::uint64_t rank_of(float logit, std::int64_t id) {
  const float value = logit + 0.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return std::uint64_t(bits) << 32 | std::uint32_t(~std::uint32_t(id));
}

}  // namespace

void Draw::keep() {
  const double lowest = rule_->score_lowest;
  if (rule_->top_k > 0 && rule_->top_k < count_) {
    take_top(rule_->top_k);
    if (rule_->top_p < 1) {
      weigh();
      cut_to(rule_->top_p * total_of_kept());
    }
  } else if (rule_->top_p < 1) {
    take_top_p();
  } else {
    const bool cuts = rule_->typical_p < 1 && rule_->temperature > kTiniest;
    take_from(logit_at(cuts ? std::max(lowest, kWeightless) : lowest));
  }
  if (lowest > -INFINITY) {
    std::erase_if(kept_, [&](const Candidate& candidate) {
      return !(score(logits_[candidate.id]) >= lowest);
    });
  }
  if (rule_->typical_p < 1) take_typical();
}

float Draw::logit_at(double lowest) const {
  return std::nextafter(float(double(best_) + lowest * rule_->temperature), -INFINITY);
}

void Draw::take_from(float lowest) {
  kept_.clear();
  for (std::size_t block = 0; block < highest_.size(); ++block) {
    if (highest_[block] < lowest) continue;
    const std::int64_t end = std::min<std::int64_t>((block + 1) * kNoiseBlock, count_);
    for (std::int64_t id = block * kNoiseBlock; id < end; ++id) {
      if (logits_[id] >= lowest) kept_.push_back({rank_of(logits_[id], id), id, 0});
    }
  }
}

void Draw::take_top(std::int64_t k) {
  // The k-th highest of the blocks' highest is no higher than the k-th highest of all.
  float lowest = -INFINITY;
  if (k < std::int64_t(highest_.size())) {
    scratch_ = highest_;
    std::nth_element(scratch_.begin(), scratch_.begin() + (k - 1), scratch_.end(),
                     std::greater<>());
    lowest = scratch_[k - 1];
  }
  take_from(lowest);
  if (k < std::int64_t(kept_.size())) {
    std::nth_element(kept_.begin(), kept_.begin() + k, kept_.end(), likelier);
    kept_.resize(k);
  }
}

void Draw::take_top_p() {
  const double wanted = rule_->top_p * kernels_->total_weight(logits_, count_, highest_.data(),
                                                              best_, rule_->inverse);
  for (double cut : kCuts) {
    take_from(logit_at(cut));
    weigh();
    if (total_of_kept() >= wanted) return cut_to(wanted);
  }
  take_flat(wanted);
  cut_to(wanted);
}

// Where the probability is spread far: buckets of all weights say from which logit on to take.
void Draw::take_flat(double wanted) {
  results_.resize(count_);
  kernels_->weigh(logits_, count_, best_, rule_->inverse, results_.data());
  sums_.assign(kBuckets, 0);
  for (std::int64_t id = 0; id < count_; ++id) sums_[bucket_of(logits_[id])] += results_[id];
  double reached = sums_[0];
  int decisive = 0;
  while (decisive < kBuckets - 2 && reached < wanted) reached += sums_[++decisive];
  const double next = (decisive + 2) * double(kBucketsEnd) / kBuckets;  // one more, for rounding
  take_from(reached < wanted ? -INFINITY : logit_at(-next));
  for (Candidate& candidate : kept_) candidate.weight = results_[candidate.id];
}

// Keeps the fewest that reach typical_p, those first whose surprise is nearest to the expected one.
// The expectation is a sum in one order: the likeliest first after top-p, else by id.
void Draw::take_typical() {
  weigh();
  std::erase_if(kept_, [](const Candidate& candidate) { return candidate.weight == 0; });
  const auto earlier = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  const auto before = rule_->top_p < 1 ? likelier : +earlier;
  if (!std::is_sorted(kept_.begin(), kept_.end(), before)) {
    std::sort(kept_.begin(), kept_.end(), before);
  }
  const double total = total_of_kept();
  const auto count = std::int64_t(kept_.size());
  results_.resize(count);
  bounds_.resize(count);
  for (std::int64_t i = 0; i < count; ++i) results_[i] = kept_[i].weight / total;
  kernels_->logs(results_.data(), count, bounds_.data());
  double expected = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    results_[i] *= -bounds_[i];
    expected += results_[i];
  }
  for (std::int64_t i = 0; i < count; ++i) {  // its rank is done with: from here on the distance
    kept_[i].rank = std::bit_cast<std::uint64_t>(std::abs(-bounds_[i] - expected));
  }
  cut_to_nearest(rule_->typical_p * total);
}

// Keeps those of the lowest ranks whose weights reach `wanted`, halving where the last one may be.
void Draw::cut_to_nearest(double wanted) {
  const auto nearer = [](const Candidate& a, const Candidate& b) {
    return a.rank < b.rank || (a.rank == b.rank && a.id < b.id);
  };
  auto low = kept_.begin();
  auto high = kept_.end();
  double reached = 0;  // of those before `low`
  while (high - low > 1) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, nearer);
    double more = 0;
    for (auto each = low; each != middle; ++each) more += each->weight;
    if (reached + more >= wanted) {
      high = middle;
    } else {
      reached += more;
      low = middle;
    }
  }
  kept_.erase(high, kept_.end());
}

double Draw::total_of_kept() const {
  double total = 0;
  for (const Candidate& candidate : kept_) total += candidate.weight;
  return total;
}

void Draw::weigh() {
  scratch_.resize(kept_.size());
  results_.resize(kept_.size());
  for (std::size_t i = 0; i < kept_.size(); ++i) scratch_[i] = logits_[kept_[i].id];
  kernels_->weigh(scratch_.data(), std::int64_t(kept_.size()), best_, rule_->inverse,
                  results_.data());
  for (std::size_t i = 0; i < kept_.size(); ++i) kept_[i].weight = results_[i];
}

// Keeps the fewest likeliest whose weights reach `wanted`: those in buckets above the decisive one,
// and the first of that one.
void Draw::cut_to(double wanted) {
  sums_.assign(kBuckets, 0);
  for (const Candidate& candidate : kept_)
    sums_[bucket_of(logits_[candidate.id])] += candidate.weight;
  double reached = 0;
  int decisive = 0;
  while (decisive < kBuckets - 1 && reached + sums_[decisive] < wanted) {
    reached += sums_[decisive++];
  }
  const auto low = std::partition(kept_.begin(), kept_.end(), [&](const Candidate& candidate) {
    return bucket_of(logits_[candidate.id]) < decisive;
  });
  const auto high = std::partition(low, kept_.end(), [&](const Candidate& candidate) {
    return bucket_of(logits_[candidate.id]) == decisive;
  });
  std::sort(low, high, likelier);
  auto end = low;
  while (end != high && reached < wanted) reached += (end++)->weight;
  kept_.erase(end, kept_.end());
}

// The higher the logit, the lower the bucket.
int Draw::bucket_of(float logit) const {
  const float below = (best_ - logit) * rule_->inverse;
  return below < kBucketsEnd ? int(below * (kBuckets / kBucketsEnd)) : kBuckets - 1;
}

}  // namespace slipstream
