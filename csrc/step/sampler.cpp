// Shares the rows of a step among the threads of the team.

#include "step/sampler.h"

#include <algorithm>
#include <stdexcept>

#include "step/draw.h"

namespace slipstream {
namespace {

constexpr int kWorkers = 4;  // rows from which on the team is called

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
