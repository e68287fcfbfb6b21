// A steady step allocates nothing: the C library's allocator is counted while a small Llama takes
// steps that are no larger than those before. Not counted under AddressSanitizer, which has an
// allocator of its own, and outside glibc.

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "step/builder.h"
#include "tests/claims.h"

using namespace slipstream;

static std::atomic<long> allocations{0};

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define COUNTED 1
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t unit, std::size_t size);

void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t unit, std::size_t size) {
  ++allocations;
  return __libc_memalign(unit, size);
}
int posix_memalign(void** memory, std::size_t unit, std::size_t size) {
  ++allocations;
  *memory = __libc_memalign(unit, size);
  return *memory == nullptr;
}
}
#endif

constexpr int kVocabulary = 64, kWidth = 64, kHidden = 128, kHeads = 4, kKVHeads = 2, kHeadDim = 16;
constexpr int kPages = 40, kSequences = 3;

static int dense(ProgramBuilder& builder, int outputs, int inputs) {
  std::mt19937 random(outputs);
  std::normal_distribution<float> normal(0.0f, 0.1f);
  std::vector<float> values(std::size_t(outputs) * inputs);
  for (float& value : values) value = normal(random);
  SourceMatrix source;
  source.outputs = outputs;
  source.inputs = inputs;
  source.codes = values.data();
  return builder.add_matrix(source);
}

static int int4(ProgramBuilder& builder, int outputs, int inputs) {
  std::mt19937 random(outputs);
  std::vector<std::uint8_t> codes(std::size_t(outputs) * inputs / 2);
  for (std::uint8_t& two : codes) two = std::uint8_t(random());
  const std::vector<float> scales(std::size_t(outputs) * inputs / 32, 0.01f);
  SourceMatrix source;
  source.outputs = outputs;
  source.inputs = inputs;
  source.code_format = CodeFormat::int4;
  source.codes = codes.data();
  source.group = 32;
  source.scales = scales.data();
  return builder.add_matrix(source);
}

static std::unique_ptr<Program> llama(int threads, const ActivationSpec& rounding) {
  ProgramBuilder builder(threads, detect(), KVType{});
  const std::vector<float> ones(kWidth, 1.0f);
  const NormSpec norm{false, 1, 1e-5f, builder.add_vector(ones.data(), kWidth), -1};
  const int queries = int4(builder, kHeads * kHeadDim, kWidth);
  const int keys = int4(builder, kKVHeads * kHeadDim, kWidth);
  const int values = int4(builder, kKVHeads * kHeadDim, kWidth);
  const int output = int4(builder, kWidth, kHeads * kHeadDim);
  const int gate = int4(builder, kHidden, kWidth), up = int4(builder, kHidden, kWidth);
  const int down = int4(builder, kWidth, kHidden);
  const int table = dense(builder, kVocabulary, kWidth);
  int node = 0;
  const auto next = [&] { builder.begin_node(node++); };
  next();
  int x = builder.embed(table, 1.0f);
  next();
  int normed = builder.norm(x, norm);
  for (int block = 0; block < 2; ++block) {
    next();
    const auto qkv = builder.linear(normed, {{queries, -1}, {keys, -1}, {values, -1}}, rounding);
    const std::vector<double> turns(kHeadDim / 2, 0.1);
    next();
    const int q = builder.rotary(qkv[0], {kHeads, kHeadDim, turns, 1.0});
    next();
    const int k = builder.rotary(qkv[1], {kKVHeads, kHeadDim, turns, 1.0});
    next();
    const int seen = builder.attention(q, k, qkv[2], {kHeads, kKVHeads, kHeadDim, 0.25f, 0, 0.0f});
    next();
    const int attended = builder.linear(seen, {{output, -1}}, rounding)[0];
    next();
    std::tie(x, normed) = builder.add_norm(x, attended, norm);
    next();
    const int opened = builder.gated_linear(normed, gate, up, Activation::silu, rounding);
    next();
    const int lowered = builder.linear(opened, {{down, -1}}, rounding)[0];
    next();
    std::tie(x, normed) = builder.add_norm(x, lowered, norm);
  }
  next();
  const int last = builder.select(normed);
  next();
  const int logits = builder.linear(last, {{table, -1}}, {32, 0})[0];
  return builder.finish(logits, kVocabulary);
}

// `rows` more of each sequence behind `depth` positions; logits of its last row.
static void step(Program& program, KV& kv, int rows, int depth, int sequences) {
  static std::int32_t ids[1024], starts[kSequences + 1], lengths[kSequences], last[kSequences];
  static std::int32_t pages[kSequences * kPages];
  static float logits[kSequences * kVocabulary];
  for (int row = 0; row < rows * sequences; ++row) ids[row] = row % kVocabulary;
  for (int s = 0; s < sequences; ++s) {
    starts[s + 1] = (s + 1) * rows;
    lengths[s] = depth;
    last[s] = (s + 1) * rows - 1;
    for (int page = 0; page < kPages; ++page) pages[s * kPages + page] = s * kPages + page;
  }
  const Batch batch{ids,       starts, lengths, pages,    last, rows * sequences,
                    sequences, kPages, 1,       sequences};
  program.step(batch, kv, logits);
}

static long counted_in_steps(int threads, const ActivationSpec& rounding) {
  const auto program = llama(threads, rounding);
  KV kv = program->new_kv({kSequences * kPages});
  for (int round = 0; round < 2; ++round) {   // in the second all threads have what one has needed
    step(*program, kv, 200, 0, 1);            // the largest prompt
    step(*program, kv, 1, 2200, kSequences);  // the deepest step
    step(*program, kv, 17, 1000, kSequences);
  }
  const long before = allocations;
  for (int turn = 0; turn < 200; ++turn) step(*program, kv, 1, turn * 10, 1 + turn % kSequences);
  for (int turn = 0; turn < 10; ++turn) step(*program, kv, 20 * turn + 10, 0, 1);
  return allocations - before;
}

int main() {
#if defined(COUNTED)
  const long begun = allocations;
  std::vector<int> noticed(10);
  CLAIM(allocations > begun && noticed.size() == 10);
#endif
  for (const int threads : {1, 2})
    for (const ActivationSpec& rounding : {ActivationSpec{8, 32}, ActivationSpec{32, 0}}) {
      const long count = counted_in_steps(threads, rounding);
      if (count != 0)
        std::fprintf(stderr, "%ld allocations, %d threads, %d bits\n", count, threads,
                     rounding.bits);
      CLAIM(count == 0);
    }
  return failed_claims != 0;
}
