// The race: who has the highest score + noise. Bounds rule most out before their noise is known.

#include <algorithm>

#include "step/draw.h"

namespace slipstream {
namespace {

constexpr int kRaceAtOnce = 256;  // candidates that are all looked at

}  // namespace

std::int64_t Draw::race_of_all() {
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

void Draw::run_block(std::int64_t block, Leader& leader) {
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

std::int64_t Draw::race_of_kept() {
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

Draw::Leader Draw::race_of(const Candidate* candidates, std::size_t count, Leader leader) {
  ids_.resize(count);
  for (std::size_t i = 0; i < count; ++i) ids_[i] = candidates[i].id / kNoiseBlock;
  find_peaks(ids_.data(), count);
  for (std::size_t i = 0; i < count; ++i) ids_[i] = candidates[i].id;
  results_.resize(count);
  kernels_->exponentials(rule_->keys[0], ids_.data(), 0, std::int64_t(count), 1.0, results_.data());
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
void Draw::find_peaks(const std::int64_t* blocks, std::size_t count) {
  lowest_.resize(count);
  peaks_.resize(count);
  const auto size = std::int64_t(count);
  kernels_->exponentials(rule_->keys[1], blocks, 0, size, 1.0 / kNoiseBlock, lowest_.data());
  kernels_->logs(lowest_.data(), size, peaks_.data());
  for (double& peak : peaks_) peak = -peak;
}

}  // namespace slipstream
