// A draw goes from cheap bounds to exact results, and looks only at what can win: what is skipped
// never changes the token.

#include "step/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace slipstream {
namespace {

constexpr int kWorkers = 4;           // rows from which on the team is called
constexpr int kRaceAtOnce = 256;      // candidates that are all looked at
constexpr int kBuckets = 2048;        // of scores, by which top-p sorts
constexpr float kBucketsEnd = 32;     // as far below the highest as a weight can be above 0
constexpr double kCuts[] = {-4, -8};  // scores down to which top-p looks before it looks at all

struct Candidate {
  std::uint64_t rank;  // the higher the likelier; among equal logits the lower id is higher
  std::int64_t id;
  double weight;
};

// Floats in the order of unsigned numbers; -0 and 0 are equal, as logits.
std::uint64_t rank_of(float logit, std::int64_t id) {
  const float value = logit + 0.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return std::uint64_t(bits) << 32 | std::uint32_t(~std::uint32_t(id));
}

bool likelier(const Candidate& a, const Candidate& b) { return a.rank > b.rank; }

// One row's draw. Workspaces are kept by thread, so that no draw allocates.
class Draw {
 public:
  std::int64_t token(const SampleKernels& kernels, const DrawRow& row, std::int64_t count) {
    kernels_ = &kernels;
    logits_ = row.logits;
    rule_ = &row.rule;
    count_ = count;
    if (!find_best()) return kNotFinite;
    if (best_ == -INFINITY) return kNoneLeft;
    if (rule_->temperature == 0 || rule_->top_k == 1) return first_of_best();
    const bool all = rule_->top_k == 0 && rule_->top_p == 1 && rule_->score_lowest == -INFINITY;
    if (all) return race_of_all();
    keep();
    return race_of_kept();
  }

  std::vector<std::int64_t> top(const SampleKernels& kernels, const float* logits,
                                std::int64_t count, std::int64_t k) {
    kernels_ = &kernels;
    logits_ = logits;
    count_ = count;
    find_best();
    take_top(k);
    std::sort(kept_.begin(), kept_.end(), likelier);
    std::vector<std::int64_t> ids;
    for (const Candidate& candidate : kept_) ids.push_back(candidate.id);
    return ids;
  }

  double total(const SampleKernels& kernels, const float* logits, std::int64_t count,
               float& highest) {
    kernels_ = &kernels;
    logits_ = logits;
    count_ = count;
    find_best();
    highest = best_;
    return kernels_->total_weight(logits_, count_, highest_.data(), best_, 1.0f);
  }

 private:
  bool find_best() {
    highest_.resize((count_ + kNoiseBlock - 1) / kNoiseBlock);
    if (!kernels_->find_highest(logits_, count_, highest_.data())) return false;
    best_ = *std::max_element(highest_.begin(), highest_.end());
    return true;
  }

  std::int64_t first_of_best() const {
    const auto block = std::find(highest_.begin(), highest_.end(), best_) - highest_.begin();
    return std::find(logits_ + block * kNoiseBlock, logits_ + count_, best_) - logits_;
  }

  double score(float logit) const { return (double(logit) - double(best_)) / rule_->temperature; }

  // Filters, each seeing what the one before left.

  void keep() {
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
      take_from(logit_at(lowest));
    }
    if (lowest > -INFINITY) {
      std::erase_if(kept_, [&](const Candidate& candidate) {
        return !(score(logits_[candidate.id]) >= lowest);
      });
    }
  }

  // A logit below which no score reaches `lowest`, rounding included.
  float logit_at(double lowest) const {
    return std::nextafter(float(double(best_) + lowest * rule_->temperature), -INFINITY);
  }

  void take_from(float lowest) {
    kept_.clear();
    for (std::size_t block = 0; block < highest_.size(); ++block) {
      if (highest_[block] < lowest) continue;
      const std::int64_t end = std::min<std::int64_t>((block + 1) * kNoiseBlock, count_);
      for (std::int64_t id = block * kNoiseBlock; id < end; ++id) {
        if (logits_[id] >= lowest) kept_.push_back({rank_of(logits_[id], id), id, 0});
      }
    }
  }

  void take_top(std::int64_t k) {
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

  void take_top_p() {
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
  void take_flat(double wanted) {
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

  double total_of_kept() const {
    double total = 0;
    for (const Candidate& candidate : kept_) total += candidate.weight;
    return total;
  }

  void weigh() {
    scratch_.resize(kept_.size());
    results_.resize(kept_.size());
    for (std::size_t i = 0; i < kept_.size(); ++i) scratch_[i] = logits_[kept_[i].id];
    kernels_->weigh(scratch_.data(), std::int64_t(kept_.size()), best_, rule_->inverse,
                    results_.data());
    for (std::size_t i = 0; i < kept_.size(); ++i) kept_[i].weight = results_[i];
  }

  // Keeps the fewest likeliest whose weights reach `wanted`. Their sums are exact, so that buckets
  // find the same as a sorted walk: those above the decisive one are kept, only it is sorted.
  void cut_to(double wanted) {
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
  int bucket_of(float logit) const {
    const float below = (best_ - logit) * rule_->inverse;
    return below < kBucketsEnd ? int(below * (kBuckets / kBucketsEnd)) : kBuckets - 1;
  }

  // The race: who has the highest score + noise; among equals the lowest id.

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

  std::int64_t race_of_all() {
    const std::size_t blocks = highest_.size();
    find_peaks(nullptr, blocks);
    bounds_.resize(blocks);
    for (std::size_t i = 0; i < blocks; ++i) bounds_[i] = score(highest_[i]) + peaks_[i];
    const auto first = std::max_element(bounds_.begin(), bounds_.end()) - bounds_.begin();
    Leader leader;
    run_block(first, leader);
    for (std::size_t block = 0; block < blocks; ++block) {
      if (bounds_[block] >= leader.result && std::int64_t(block) != first) run_block(block, leader);
    }
    return leader.id;
  }

  void run_block(std::int64_t block, Leader& leader) {
    const std::int64_t start = block * kNoiseBlock;
    const int size = int(std::min<std::int64_t>(kNoiseBlock, count_ - start));
    double noise[kNoiseBlock];
    kernels_->exponentials(rule_->keys[0], nullptr, start, size, 1.0, noise);
    for (int i = 0; i < size; ++i) noise[i] = lowest_[block] + noise[i];
    kernels_->logs(noise, size, noise);
    const auto winner = int(noise_hash(rule_->keys[2], std::uint64_t(block)) % kNoiseBlock);
    for (int i = 0; i < size; ++i) {
      const double other = std::min(-noise[i], peaks_[block]);
      const double result = score(logits_[start + i]) + (i == winner ? peaks_[block] : other);
      leader.meet(result, start + i);
    }
  }

  std::int64_t race_of_kept() {
    if (kept_.size() <= kRaceAtOnce) return race_of(kept_.data(), kept_.size(), {}).id;
    find_peaks(nullptr, highest_.size());
    for (Candidate& candidate : kept_) {  // its weight is done with: from here on its bound
      candidate.weight = score(logits_[candidate.id]) + peaks_[candidate.id / kNoiseBlock];
    }
    const auto lower = [](const Candidate& a, const Candidate& b) { return a.weight < b.weight; };
    const auto first = std::max_element(kept_.begin(), kept_.end(), lower);
    const Leader leader = race_of(&*first, 1, {});
    const auto able = std::partition(kept_.begin(), kept_.end(), [&](const Candidate& candidate) {
      return candidate.weight >= leader.result;
    });
    return race_of(kept_.data(), std::size_t(able - kept_.begin()), leader).id;
  }

  Leader race_of(const Candidate* candidates, std::size_t count, Leader leader) {
    ids_.resize(count);
    for (std::size_t i = 0; i < count; ++i) ids_[i] = candidates[i].id / kNoiseBlock;
    find_peaks(ids_.data(), count);
    for (std::size_t i = 0; i < count; ++i) ids_[i] = candidates[i].id;
    results_.resize(count);
    kernels_->exponentials(rule_->keys[0], ids_.data(), 0, std::int64_t(count), 1.0,
                           results_.data());
    for (std::size_t i = 0; i < count; ++i) results_[i] = lowest_[i] + results_[i];
    kernels_->logs(results_.data(), std::int64_t(count), results_.data());
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t id = ids_[i];
      const std::uint64_t winner =
          noise_hash(rule_->keys[2], std::uint64_t(id / kNoiseBlock)) % kNoiseBlock;
      const bool wins = winner == std::uint64_t(id % kNoiseBlock);
      const double noise = wins ? peaks_[i] : std::min(-results_[i], peaks_[i]);
      leader.meet(score(logits_[id]) + noise, id);
    }
    return leader;
  }

  // lowest_ and peaks_ of the listed blocks, or of the first `count`.
  void find_peaks(const std::int64_t* blocks, std::size_t count) {
    lowest_.resize(count);
    peaks_.resize(count);
    const auto size = std::int64_t(count);
    kernels_->exponentials(rule_->keys[1], blocks, 0, size, 1.0 / kNoiseBlock, lowest_.data());
    kernels_->logs(lowest_.data(), size, peaks_.data());
    for (double& peak : peaks_) peak = -peak;
  }

  const SampleKernels* kernels_ = nullptr;
  const float* logits_ = nullptr;
  const DrawRule* rule_ = nullptr;
  std::int64_t count_ = 0;
  float best_ = 0;
  std::vector<float> highest_, scratch_;
  std::vector<double> lowest_, peaks_, bounds_, results_, sums_;
  std::vector<std::int64_t> ids_;
  std::vector<Candidate> kept_;
};

Draw& draw_of_thread() {
  thread_local Draw draw;
  return draw;
}

void check_vocabulary(std::int64_t vocabulary) {
  if (vocabulary < 1 || vocabulary > kVocabularyMax) {
    throw std::invalid_argument("the vocabulary must have 1…524288 tokens");
  }
}

}  // namespace

template <class Work>
void Sampler::share(int count, Work work) {
  if (count < kWorkers || team_.size() == 1) {
    for (int i = 0; i < count; ++i) work(i);
    return;
  }
  WorkQueue queue;
  queue.reset();
  auto turn = [&](int) {
    for (int i = queue.take(); i < count; i = queue.take()) work(i);
  };
  team_.run(turn);
}

void Sampler::draw(const std::vector<DrawRow>& rows, std::int64_t vocabulary,
                   std::int64_t* tokens) {
  check_vocabulary(vocabulary);
  share(int(rows.size()),
        [&](int i) { tokens[i] = draw_of_thread().token(kernels_, rows[i], vocabulary); });
}

void Sampler::totals(const std::vector<const float*>& rows, std::int64_t vocabulary, double* totals,
                     float* highest) {
  check_vocabulary(vocabulary);
  share(int(rows.size()), [&](int i) {
    totals[i] = draw_of_thread().total(kernels_, rows[i], vocabulary, highest[i]);
  });
}

std::vector<std::int64_t> Sampler::top(const float* logits, std::int64_t vocabulary,
                                       std::int64_t k) const {
  check_vocabulary(vocabulary);
  return draw_of_thread().top(kernels_, logits, vocabulary, std::min(k, vocabulary));
}

}  // namespace slipstream
