// Times the attention kernels of one thread: nanoseconds, bytes of keys and values per second and
// multiply-adds per second, by format of the pages, depth and queries.
//
//   bench_attention [--isa NAME] [--head-dim 64] [--group 3] [--heads 3] [--depths 512,2048,8192]
//   [--layers 30] [--rows 1,16] [--rounds 7] [--pages bfloat16]
//
// Every head of a layer attends in turn, over pages that lie as step/kv.h lays them; enough layers
// are walked that the pages of a depth leave the caches as those of a model do. Formats alternate
// within each round, and a line is the median of its rounds and the fastest, in processor time.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "isa/memory.h"
#include "kernels/attention.h"

namespace slipstream {
namespace {

struct Options {
  Isa isa = detect();
  int head_dim = 64;
  int group = 3;
  int heads = 3;
  int layers = 30;
  std::vector<int> depths = {512, 2048, 8192};
  std::vector<int> rows = {1, 16};
  int rounds = 7;
  std::string pages;  // one format; empty: all
};

struct Named {
  const char* name;
  KVType type;
};
constexpr Named kTypes[] = {{"float32", {KVFormat::float32, KVFormat::float32}},
                            {"bfloat16", {KVFormat::bfloat16, KVFormat::bfloat16}},
                            {"int8", {KVFormat::int8, KVFormat::int8}},
                            {"k8v4", {KVFormat::int8, KVFormat::int4}},
                            {"int4", {KVFormat::int4, KVFormat::int4}}};

std::vector<int> numbers(const char* text) {
  std::vector<int> out;
  for (const char* p = text; *p; p += *p == ',') {
    char* end;
    out.push_back(static_cast<int>(std::strtol(p, &end, 10)));
    p = end;
  }
  return out;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = argv[i + 1];
    if (name == "--isa") {
      for (Isa isa : isas_supported())
        if (isa_name(isa) == std::string(value)) options.isa = isa;
    }
    if (name == "--head-dim") options.head_dim = std::atoi(value);
    if (name == "--group") options.group = std::atoi(value);
    if (name == "--heads") options.heads = std::atoi(value);
    if (name == "--layers") options.layers = std::atoi(value);
    if (name == "--depths") options.depths = numbers(value);
    if (name == "--rows") options.rows = numbers(value);
    if (name == "--rounds") options.rounds = std::atoi(value);
    if (name == "--pages") options.pages = value;
  }
  return options;
}

double processor_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

// The pages of all layers of one sequence, filled by the kernels themselves.
struct Pages {
  AttentionShape shape;
  const Options& options;
  std::size_t key_bytes, head_total, page_bytes;
  AlignedBuffer memory;  // in huge pages, as a pool is
  std::vector<std::int32_t> table;

  Pages(KVType type, int depth, const Options& options, const AttentionKernels& kernels)
      : shape{options.head_dim, 0.125f, 0.0f, type}, options(options) {
    key_bytes = head_bytes(type.keys, options.head_dim) * options.heads;
    head_total = key_bytes + head_bytes(type.values, options.head_dim) * options.heads;
    page_bytes = head_total * options.layers;
    const int count = (depth + kTile - 1) / kTile;
    for (int page = 0; page < count; ++page) table.push_back(page);
    memory = AlignedBuffer(page_bytes * count);
    std::vector<float> key(options.head_dim), value(options.head_dim);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : key) x = normal(random);
    for (float& x : value) x = normal(random);
    for (int page = 0; page < count; ++page)
      for (int part = 0; part < options.layers * options.heads; ++part)
        for (int slot = 0; slot < kTile; ++slot) {
          key[slot % options.head_dim] = normal(random);
          HeadPages at = head(part / options.heads, part % options.heads);
          kernels.write(shape, key.data(), value.data(),
                        const_cast<std::byte*>(at.keys) + page_bytes * page,
                        const_cast<std::byte*>(at.values) + page_bytes * page, slot);
        }
  }

  HeadPages head(int layer, int head) {
    std::byte* base = memory.data() + head_total * layer;
    const int width = options.head_dim;
    return {base + head_bytes(shape.type.keys, width) * head,
            base + key_bytes + head_bytes(shape.type.values, width) * head, page_bytes,
            table.data()};
  }
};

// One step's attention of all layers and heads, rows at the end of the depth.
double run(Pages& pages, int depth, int rows, const AttentionKernels& kernels) {
  const Options& options = pages.options;
  const int width = options.head_dim;
  const int total = rows * options.group;
  const int size = state_size(width);
  std::vector<float> query(prepared_size(width), 0.3f), states(2 * kQueryBlock * size), out(width);
  const double begin = processor_seconds();
  for (int part = 0; part < options.layers * options.heads; ++part) {
    const HeadPages head = pages.head(part / options.heads, part % options.heads);
    for (int start = 0; start < total; start += kQueryBlock) {
      QueryBlock block{};
      block.count = std::min(kQueryBlock, total - start);
      for (int split = 0; split * kSplit < depth; ++split) {
        for (int i = 0; i < block.count; ++i) {
          block.queries[i] = query.data();
          block.states[i] = states.data() + (split ? kQueryBlock + i : i) * size;
          block.first[i] = 0;
          block.last[i] = depth;
        }
        kernels.attend(pages.shape, head, block, split);
        for (int i = 0; split && i < block.count; ++i)
          kernels.merge(pages.shape, states.data() + i * size, block.states[i]);
      }
      for (int i = 0; i < block.count; ++i)
        kernels.finish(pages.shape, states.data() + i * size, out.data());
    }
  }
  return processor_seconds() - begin;
}

void bench(const Options& options, int depth, int rows) {
  const AttentionKernels& kernels = attention_kernels(options.isa);
  std::vector<Pages> pages;
  std::vector<const char*> names;
  for (const Named& named : kTypes) {
    if (!options.pages.empty() && options.pages != named.name) continue;
    pages.emplace_back(named.type, depth, options, kernels);
    names.push_back(named.name);
  }
  std::vector<std::vector<double>> seconds(pages.size());
  for (int round = 0; round <= options.rounds; ++round)
    for (std::size_t i = 0; i < pages.size(); ++i) {
      const double took = run(pages[i], depth, rows, kernels);
      if (round) seconds[i].push_back(took);  // the first one warms up
    }
  for (std::size_t i = 0; i < pages.size(); ++i) {
    std::sort(seconds[i].begin(), seconds[i].end());
    const double median = seconds[i][seconds[i].size() / 2];
    const double products =
        2.0 * options.layers * options.heads * options.group * rows * depth * options.head_dim;
    std::printf("%6d %4d  %-9s %9.3f ms  (fastest %9.3f)  %6.2f GB/s  %6.1f GMAC/s\n", depth, rows,
                names[i], 1e3 * median, 1e3 * seconds[i][0], pages[i].memory.size() / median * 1e-9,
                products / median * 1e-9);
  }
}

}  // namespace
}  // namespace slipstream

int main(int argc, char** argv) {
  const slipstream::Options options = slipstream::parse(argc, argv);
  std::printf(" depth rows  pages          median\n");
  for (int depth : options.depths)
    for (int rows : options.rows) slipstream::bench(options, depth, rows);
}
