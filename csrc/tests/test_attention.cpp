// Attention of every instruction set: near a slow double-precision one, and equal in every bit to
// the portable one, whatever block a query is computed in.

#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tests/claims.h"

using namespace slipstream;

#if defined(SLIPSTREAM_X86)
namespace slipstream::emulated_avx512 {
extern const AttentionKernels attention_table;
}
#endif

// A head with `positions` random keys and values on pages in reverse order.
struct Head {
  AttentionShape shape;
  int positions;
  std::vector<float> keys, values;  // [positions][head_dim]
  std::vector<std::byte> pages;
  std::vector<std::int32_t> table;
  std::size_t key_bytes, page_bytes;

  Head(AttentionShape shape, int positions, const AttentionKernels& kernels)
      : shape(shape), positions(positions) {
    std::mt19937 random(positions);
    std::normal_distribution<float> normal;
    for (int i = 0; i < positions * shape.head_dim; ++i) {
      keys.push_back(normal(random));
      values.push_back(normal(random));
    }
    key_bytes = head_bytes(shape.type.keys, shape.head_dim);
    page_bytes = key_bytes + head_bytes(shape.type.values, shape.head_dim);
    const int count = (positions + kTile - 1) / kTile;
    for (int page = 0; page < count; ++page) table.push_back(count - 1 - page);
    pages.assign(page_bytes * count, std::byte{0xff});  // NaN wherever nothing is written
    for (int p = 0; p < positions; ++p) {
      std::byte* page = pages.data() + page_bytes * table[p / kTile];
      kernels.write(shape, &keys[p * shape.head_dim], &values[p * shape.head_dim], page,
                    page + key_bytes, p % kTile);
    }
  }

  HeadPages view() const {
    return {pages.data(), pages.data() + key_bytes, page_bytes, table.data()};
  }
};

struct Query {
  std::vector<float> values;
  int first, last;
};

static std::vector<float> run(const Head& head, const std::vector<Query>& queries,
                              const AttentionKernels& kernels) {
  const int size = state_size(head.shape.head_dim);
  std::vector<float> total(queries.size() * size), next(queries.size() * size);
  std::vector<float> out(queries.size() * head.shape.head_dim);
  QueryBlock block{};
  block.count = static_cast<int>(queries.size());
  const int prepared = prepared_size(head.shape.head_dim);
  std::vector<float> room(queries.size() * prepared);
  for (int i = 0; i < block.count; ++i) {
    block.queries[i] = queries[i].values.data();
    if (needs_preparing(head.shape.type)) {
      kernels.prepare(head.shape, block.queries[i], &room[i * prepared]);
      block.queries[i] = &room[i * prepared];
    }
    block.first[i] = queries[i].first;
    block.last[i] = queries[i].last;
  }
  for (int split = 0; split * kSplit < head.positions; ++split) {
    for (int i = 0; i < block.count; ++i) {
      const bool begins = block.first[i] / kSplit == split;
      block.states[i] = (begins ? total.data() : next.data()) + i * size;
    }
    kernels.attend(head.shape, head.view(), block, split);
    for (int i = 0; i < block.count; ++i) {
      const bool joins = block.first[i] / kSplit < split && split <= (block.last[i] - 1) / kSplit;
      if (joins) kernels.merge(head.shape, &total[i * size], &next[i * size]);
    }
  }
  for (int i = 0; i < block.count; ++i) {
    kernels.finish(head.shape, &total[i * size], &out[i * head.shape.head_dim]);
  }
  return out;
}

static std::vector<double> slowly(const Head& head, const Query& query) {
  const int width = head.shape.head_dim;
  std::vector<double> weights, out(width, 0.0);
  double total = 0.0;
  for (int p = query.first; p < query.last; ++p) {
    double score = 0.0;
    for (int d = 0; d < width; ++d) score += double(query.values[d]) * head.keys[p * width + d];
    score *= head.shape.scale;
    if (head.shape.soft_cap != 0.0f) {
      score = head.shape.soft_cap * std::tanh(score / head.shape.soft_cap);
    }
    weights.push_back(std::exp(score));
    total += weights.back();
  }
  for (int p = query.first; p < query.last; ++p) {
    for (int d = 0; d < width; ++d) {
      out[d] += weights[p - query.first] / total * head.values[p * width + d];
    }
  }
  return out;
}

static std::vector<Query> random_queries(int count, int positions, int head_dim) {
  std::mt19937 random(count * 7919 + positions);
  std::normal_distribution<float> normal;
  std::vector<Query> queries(count);
  for (Query& query : queries) {
    for (int d = 0; d < head_dim; ++d) query.values.push_back(normal(random));
    query.last = 1 + random() % positions;
    query.first = random() % 2 ? 0 : random() % query.last;
  }
  return queries;
}

constexpr KVType kFloat32{KVFormat::float32, KVFormat::float32};
constexpr KVType kBFloat16{KVFormat::bfloat16, KVFormat::bfloat16};
constexpr KVType kInt8{KVFormat::int8, KVFormat::int8};
constexpr KVType kMixed{KVFormat::int8, KVFormat::int4};
constexpr KVType kInt4{KVFormat::int4, KVFormat::int4};

// Of the mean of random normal values, weighted by scores of random normal keys.
static double tolerance_of(KVType type) {
  if (type == kFloat32) return 1e-5;
  if (type == kBFloat16 || type == kInt8) return 0.03;
  return type == kMixed ? 0.3 : 0.9;
}

static void check(AttentionShape shape, int positions, int count, const AttentionKernels& kernels) {
  const Head head(shape, positions, kernels);
  const auto queries = random_queries(count, positions, shape.head_dim);
  const auto out = run(head, queries, kernels);
  const auto portable = run(head, queries, attention_kernels(Isa::portable));
  CLAIM(std::memcmp(out.data(), portable.data(), out.size() * sizeof(float)) == 0);
  const double tolerance = tolerance_of(shape.type);
  for (int i = 0; i < count; ++i) {
    const auto truth = slowly(head, queries[i]);
    const auto alone = run(head, {queries[i]}, kernels);
    for (int d = 0; d < shape.head_dim; ++d) {
      CLAIM(std::abs(out[i * shape.head_dim + d] - truth[d]) < tolerance);
      CLAIM(out[i * shape.head_dim + d] == alone[d]);
    }
  }
}

// Up to so many positions every count of queries is tried: above, a sanitized build would take a
// minute, and pages follow pages as they do before.
#if defined(SLIPSTREAM_CHECKED)
constexpr int kEachCount = 300;
#else
constexpr int kEachCount = 1100;
#endif

static std::vector<const AttentionKernels*> all_kernels() {
  std::vector<const AttentionKernels*> all;
  for (Isa isa : isas_supported()) all.push_back(&attention_kernels(isa));
#if defined(SLIPSTREAM_X86)
  if (isa_supported(Isa::avx2)) all.push_back(&emulated_avx512::attention_table);
#endif
  return all;
}

int main() {
  for (const AttentionKernels* kernels : all_kernels()) {
    for (int head_dim : {7, 8, 16, 20, 64, 80}) {
      for (KVType type : {kFloat32, kBFloat16, kInt8, kMixed, kInt4}) {
        const AttentionShape shape{head_dim, 0.2f, head_dim == 20 ? 2.0f : 0.0f, type};
        for (int count = 1; count <= kQueryBlock; ++count) {
          for (int positions : {1, 64, 65, 300, 1100}) {
            if (positions <= kEachCount || count == 1 || count == kQueryBlock) {
              check(shape, positions, count, *kernels);
            }
          }
        }
      }
    }
  }
  return failed_claims;
}
