// The loops of sampling over one row of logits, and what a draw is made of.
//
// The reference is src/slipstream/engine/{exact,noise,sampler}.py: these perform the same IEEE
// operations in the same order, so every instruction set draws the very same tokens. Called by
// csrc/step/sampler.cpp; compiled once per instruction set.
#pragma once

#include <cstdint>

#include "isa/isa.h"

namespace slipstream {

constexpr int kNoiseBlock = 64;                   // ids whose highest noise is known at once
constexpr double kWeightOne = 0x1p30;             // the weight of the most likely token
constexpr std::int64_t kVocabularyMax = 1 << 19;  // sums of more weights might not be exact

struct SampleKernels {
  // highest[b] = the highest of x[64 b …]; false if any is NaN or +infinity.
  bool (*find_highest)(const float* x, std::int64_t count, float* highest);
  // out[i] = -log(u) · scale, u uniform from the hash of (key, numbers[i]), or of (key, first + i)
  // where numbers is null.
  void (*exponentials)(std::uint64_t key, const std::int64_t* numbers, std::int64_t first,
                       std::int64_t count, double scale, double* out);
  // out[i] = log(x[i]), x positive and normal.
  void (*logs)(const double* x, std::int64_t count, double* out);
  // out[i] = the weight e^((x[i] - highest) · inverse) in 0 … 2^30, a whole number.
  void (*weigh)(const float* x, std::int64_t count, float highest, float inverse, double* out);
  // The exact sum of the weights; `blocks` is what find_highest found, `highest` the best of it.
  double (*total_weight)(const float* x, std::int64_t count, const float* blocks, float highest,
                         float inverse);
};

const SampleKernels& sample_kernels(Isa isa);

// The hash that all noise comes from (SplitMix64).
inline std::uint64_t noise_hash(std::uint64_t key, std::uint64_t number) {
  std::uint64_t bits = number * 0x9E3779B97F4A7C15u + key;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

}  // namespace slipstream
