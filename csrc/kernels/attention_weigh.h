// From the scores of one tile to its weights: scale, soft cap, mask, exp against the largest score
// so far, and the scales of what is stored as codes. For attention_isa.cpp only; compiled per
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_tile.h"
#include "kernels/math.h"

namespace slipstream::SLIPSTREAM_ISA {

// Lane i is set where the query sees position key + i.
SLIPSTREAM_INLINE f32x16 where_seen(Seen seen, int key, f32x16 v, float otherwise) {
  static constexpr std::int32_t kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const i32x16 position = load_i32(kCount) + set1_i32(key);
  const f32x16 other = set1(otherwise);
  const f32x16 started = select(less_i32(position, set1_i32(seen.begin)), other, v);
  return select(less_i32(position, set1_i32(seen.end)), started, other);
}

// Products with codes become products with keys: · scale, + minimum · the sum of the query.
template <class KeyPage>
SLIPSTREAM_INLINE f32x16 with_key_scale(f32x16 s, const std::uint16_t* scales, float query_sum) {
  if constexpr (KeyPage::kScaled) s = s * load_bf16(scales);
  if constexpr (KeyPage::kShifted) s = fma(set1(query_sum), load_bf16(scales + kTile), s);
  return s;
}

constexpr float kLog2OfE = 1.44269504f;

// What turns a score into a power of two.
SLIPSTREAM_INLINE float power_scale(const AttentionShape& shape) {
  return shape.soft_cap != 0.0f ? kLog2OfE : shape.scale * kLog2OfE;
}

// Products become scores, of a key's scale and a soft cap; those of unseen keys become minus
// infinity, which changes no maximum. Returns the largest.
template <bool Whole, class KeyPage>
SLIPSTREAM_INLINE float finish_scores(const AttentionShape& shape, Seen seen, float* scores,
                                      const std::byte* keys, const float* query) {
  const std::uint16_t* key_scales = scales_of<KeyPage>(keys, shape.head_dim);
  const float query_sum = KeyPage::kShifted ? query[2 * nibble_rows(shape.head_dim)] : 0.0f;
  const bool capped = shape.soft_cap != 0.0f;
  f32x16 largest = set1(kMinusInfinity);
  for (int key = seen.begin / 16 * 16; key < seen.end; key += 16) {
    f32x16 s = with_key_scale<KeyPage>(load(scores + key), key_scales + key, query_sum);
    if (capped) s = tanh(s * set1(shape.scale) / set1(shape.soft_cap)) * set1(shape.soft_cap);
    if constexpr (!Whole) s = where_seen(seen, key, s, kMinusInfinity);
    if (KeyPage::kScaled || !Whole || capped) store(scores + key, s);
    largest = max(s, largest);
  }
  return max_of(largest);
}

// The weight of a score so far from the largest.
SLIPSTREAM_INLINE float shrink_of(const AttentionShape& shape, float distance) {
  alignas(64) float lanes[16];
  store(lanes, exp2_down(set1(distance * power_scale(shape))));
  return lanes[0];
}

// values *= factor, of a state.
SLIPSTREAM_INLINE void shrink_values(float* state, int head_dim, float factor) {
  for (int d = 0; d < head_dim; d += 16) {
    store(state + 16 + d, load(state + 16 + d) * set1(factor));
  }
}

// What a query gathers of a tile beside its values: the sums of its weights, and of its weights
// times the values' minimums.
struct WeightSums {
  f32x16 weights = zero_f32();
  f32x16 minimums = zero_f32();
};

// Weights of codes are weights of values times their scale.
template <bool Whole, class ValuePage>
SLIPSTREAM_INLINE f32x16 with_value_scale(f32x16 weight, Seen seen, int key,
                                          const std::uint16_t* scales, WeightSums& sums) {
  if constexpr (ValuePage::kShifted) {
    f32x16 low = load_bf16(scales + kTile + key);
    if constexpr (!Whole) low = where_seen(seen, key, low, 0.0f);
    sums.minimums = fma(weight, low, sums.minimums);
  }
  if constexpr (ValuePage::kScaled) {
    weight = weight * load_bf16(scales + key);
    if constexpr (!Whole) weight = where_seen(seen, key, weight, 0.0f);
  }
  return weight;
}

// Scores become weights 2^((score - largest) · power_scale), so that of the largest is 1; what the
// state holds shrinks to the new base.
template <bool Whole, class KeyPage, class ValuePage>
SLIPSTREAM_INLINE void weigh(Tile<KeyPage, ValuePage>& tile, int query) {
  const AttentionShape& shape = tile.shape;
  const Seen seen = tile.seen[query];
  float* scores = tile.weights[query];
  float* state = tile.block.states[query];
  const std::uint16_t* value_scales = scales_of<ValuePage>(tile.values, shape.head_dim);
  const float before = state[0];
  const float here =
      finish_scores<Whole, KeyPage>(shape, seen, scores, tile.keys, tile.block.queries[query]);
  const f32x16 factor = set1(power_scale(shape));
  const float largest = here > before ? here : before;
  WeightSums sums;
  for (int key = seen.begin / 16 * 16; key < seen.end; key += 16) {
    f32x16 weight = exp2_down((load(scores + key) - set1(largest)) * factor);
    if constexpr (!Whole) weight = where_seen(seen, key, weight, 0.0f);
    sums.weights = sums.weights + weight;
    weight = with_value_scale<Whole, ValuePage>(weight, seen, key, value_scales, sums);
    store(scores + key, weight);
  }
  if (largest != before) {  // else 2^0, which is 1
    const float shrink = shrink_of(shape, before - largest);
    state[0] = largest;
    state[1] = state[1] * shrink;
    state[2] = state[2] * shrink;
    shrink_values(state, shape.head_dim, shrink);
  }
  state[1] = state[1] + sum(sums.weights);
  if constexpr (ValuePage::kShifted) state[2] = state[2] + sum(sums.minimums);
}

template <class KeyPage, class ValuePage>
SLIPSTREAM_INLINE void weigh_query(Tile<KeyPage, ValuePage>& tile, int query) {
  const Seen seen = tile.seen[query];
  if (seen.begin == 0 && seen.end == kTile) {
    weigh<true>(tile, query);
  } else if (!seen.none()) {
    weigh<false>(tile, query);
  }
}

}  // namespace slipstream::SLIPSTREAM_ISA
