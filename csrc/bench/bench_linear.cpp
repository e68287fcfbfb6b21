// Times the linear kernels: bytes of weights per second and multiply-adds per second, by shape,
// format, rows and threads.
//
//   bench_linear [--isa NAME] [--threads N] [--rows 1,4,512] [--shapes 576x1536,…] [--formats …]
//   [--seconds S] [--direct ROWS]
//
// Further formats: int8_2:4 int4_2:4 (random places), int8_mask50 int4_mask50 … (so many of a
// hundred weights kept, anywhere), int2 int3 int5 int6 nf4 iq4_nl mxfp4, and
// q2_k … q6_k as GGML has them (shapes of multiples of 256 inputs). Formats: int4, int4min (f16
// scales and minimums, group 32), int4g128, int8, f32in (int4min with float32 rows), bf16, f32,
// bf16in (bf16 with bfloat16 rows).
// Each line is the best of the repetitions that fit in the time: what the kernel can do when left
// alone. The weights of one run rotate over enough copies to leave the caches (--cached keeps one
// copy). Time is the thread's own processor time with --busy, for machines that others use too;
// else the clock on the wall.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/linear.h"

namespace slipstream {
namespace {

struct Options {
  Isa isa = detect();
  int threads = 1;
  std::vector<int64_t> rows = {1, 4, 16, 512};
  std::vector<std::string> shapes = {"576x1536", "1536x576", "2048x8192", "8192x2048"};
  std::vector<std::string> formats = {"int4min", "int4", "int4g128", "int8",
                                      "f32in",   "bf16", "f32"};
  double seconds = 0.3;
  LinearChoice choice;
  bool cached = false;
  bool busy = false;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out(1);
  for (const char c : text)
    if (c == ',')
      out.emplace_back();
    else
      out.back() += c;
  return out;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--cached") {
      options.cached = true;
      continue;
    }
    if (name == "--busy") {
      options.busy = true;
      continue;
    }
    if (i + 1 == argc) std::exit(2);
    const std::string value = argv[++i];
    if (name == "--isa")
      options.isa = isa_from_name(value).value();
    else if (name == "--threads")
      options.threads = std::stoi(value);
    else if (name == "--shapes")
      options.shapes = split(value);
    else if (name == "--formats")
      options.formats = split(value);
    else if (name == "--direct")
      options.choice.direct_rows = std::stoi(value);
    else if (name == "--seconds")
      options.seconds = std::stod(value);
    else if (name == "--rows") {
      options.rows.clear();
      for (const std::string& rows : split(value)) options.rows.push_back(std::stoll(rows));
    } else {
      std::fprintf(stderr, "unknown option %s\n", name.c_str());
      std::exit(2);
    }
  }
  return options;
}

MatrixFormat format_of(const std::string& name) {
  const auto affine = [](CodeFormat codes, int64_t group, bool minimum) {
    return MatrixFormat{codes, group, ScaleFormat::f16, minimum, ScaleFormat::f16};
  };
  if (name == "int4") return affine(CodeFormat::int4, 32, false);
  if (name == "int4min" || name == "f32in") return affine(CodeFormat::int4, 32, true);
  if (name == "int4g128") return affine(CodeFormat::int4, 128, false);
  if (name == "int8_2:4") return affine(CodeFormat::int8_2of4, 32, false);
  if (name == "int4_2:4") return affine(CodeFormat::int4_2of4, 32, false);
  if (name == "int8") return affine(CodeFormat::int8, 32, false);
  if (name == "int2") return affine(CodeFormat::int2, 32, false);
  if (name == "int3") return affine(CodeFormat::int3, 32, false);
  if (name == "int5") return affine(CodeFormat::int5, 32, false);
  if (name == "int6") return affine(CodeFormat::int6, 32, false);
  if (name == "nf4") return affine(CodeFormat::nf4, 64, false);
  if (name == "iq4_nl") return affine(CodeFormat::iq4_nl, 32, false);
  if (name == "mxfp4") return {CodeFormat::mxfp4, 32, ScaleFormat::e8m0, false, ScaleFormat::f32};
  const auto nested = [&](CodeFormat codes, int64_t group, bool minimum) {
    return MatrixFormat{codes, group, ScaleFormat::nested, minimum, ScaleFormat::nested, 0};
  };
  if (name == "q2_k") return nested(CodeFormat::int2, 16, true);
  if (name == "q3_k") return nested(CodeFormat::int3, 16, false);
  if (name == "q4_k") return nested(CodeFormat::int4, 32, true);
  if (name == "q5_k") return nested(CodeFormat::int5, 32, true);
  if (name == "q6_k") return nested(CodeFormat::int6, 16, false);
  if (name == "bf16" || name == "bf16in")
    return {CodeFormat::bf16, 0, ScaleFormat::f32, false, ScaleFormat::f32};
  if (name == "f32") return {CodeFormat::f32, 0, ScaleFormat::f32, false, ScaleFormat::f32};
  std::fprintf(stderr, "unknown format %s\n", name.c_str());
  std::exit(2);
}

PackedMatrix random_matrix(const MatrixFormat& format, int64_t outputs, int64_t inputs) {
  PackedMatrix matrix(format, outputs, inputs);
  std::mt19937 random(1);
  // Small positive halves and floats, whatever the format reads them as.
  auto* words = reinterpret_cast<uint16_t*>(matrix.codes(0));
  for (std::size_t i = 0; i < matrix.size_bytes() / 2; ++i) words[i] = uint16_t(random() & 0x3bff);
  return matrix;
}

// Random codes of which `percent` of a hundred are not zero, packed by mask.
PackedMatrix masked_matrix(bool nibbles, int percent, int64_t outputs, int64_t inputs) {
  std::mt19937 random(1);
  const auto code = [&](int zero, int high) {
    return int(random() % 100) < percent ? int(zero + 1 + random() % high) : zero;
  };
  std::vector<uint8_t> codes(std::size_t(outputs * inputs / (nibbles ? 2 : 1)));
  for (uint8_t& byte : codes) byte = uint8_t(nibbles ? code(8, 7) | code(8, 7) << 4 : code(0, 127));
  const std::vector<uint16_t> scales(std::size_t(outputs * inputs / 32), 0x2000);
  SourceMatrix source;
  source.outputs = outputs, source.inputs = inputs, source.group = 32;
  source.code_format = nibbles ? CodeFormat::int4 : CodeFormat::int8;
  source.codes = codes.data(), source.scales = scales.data();
  source.scale_format = ScaleFormat::f16;
  source.sparsity = Sparsity::masked;
  return pack(source);
}

constexpr std::string_view kMask = "_mask";

bool is_masked(const std::string& name) { return name.find(kMask) != std::string::npos; }

// What one run multiplies with; copies share no memory.
PackedMatrix make_matrix(const std::string& name, int64_t outputs, int64_t inputs) {
  if (is_masked(name)) {
    const int percent = std::stoi(name.substr(name.find(kMask) + kMask.size()));
    return masked_matrix(name.rfind("int4", 0) == 0, percent, outputs, inputs);
  }
  MatrixFormat format = format_of(name);
  if (format.scales == ScaleFormat::nested) format.supers = inputs / 256;
  return random_matrix(format, outputs, inputs);
}

PackedMatrix copy_of(const PackedMatrix& matrix) {
  const auto memory = std::make_shared<AlignedBuffer>(matrix.size_bytes());
  std::memcpy(memory->data(), matrix.codes(0), matrix.size_bytes());
  return {matrix.format(), matrix.outputs(), matrix.inputs(),
          memory,          memory->data(),   matrix.size_bytes()};
}

struct Work {
  std::vector<PackedMatrix> matrices;
  std::vector<float> x, y;
  std::vector<uint16_t> halves;
  AlignedBuffer memory;
  ActivationBlock block;
  LinearInput input;
};

Work make_work(const Options& options, const LinearKernels& kernels, const std::string& name,
               int64_t inputs, int64_t outputs, int64_t rows) {
  Work work;
  work.matrices.push_back(make_matrix(name, outputs, inputs));
  const MatrixFormat format = work.matrices[0].format();
  const int64_t beyond_caches = int64_t(160) << 20;
  const int64_t copies = beyond_caches / int64_t(work.matrices[0].size_bytes()) + 1;
  for (int64_t i = 1; i < (options.cached || rows > 64 ? 1 : copies); ++i)
    work.matrices.push_back(copy_of(work.matrices[0]));
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < rows * inputs; ++i) work.x.push_back(normal(random));
  work.y.resize(std::size_t(rows * outputs));
  work.input = {nullptr, work.x.data(), inputs};
  if (name == "bf16in") {
    const int64_t padded = work.matrices[0].inputs_padded();
    work.halves.resize(std::size_t(rows * padded));
    kernels.round_rows(work.x.data(), inputs, inputs, padded, work.halves.data(), {0, rows});
    work.input = {nullptr, nullptr, padded, work.halves.data()};
  }
  if (!format.dense() && name != "f32in") {
    const int64_t group = format.group;
    work.memory = AlignedBuffer(ActivationBlock::size_bytes(rows, inputs, group, group));
    work.block = ActivationBlock::place(work.memory.data(), rows, inputs, group, group);
    kernels.quantize_rows(work.x.data(), inputs, work.block, {0, rows});
    work.input = {&work.block, nullptr, 0};
  }
  return work;
}

double now(bool own_time) {
  timespec time{};
  clock_gettime(own_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// Seconds of one product, the best of many.
double best_time(const Options& options, const LinearKernels& kernels, Work& work, int64_t outputs,
                 int64_t rows) {
  std::vector<double> best(std::size_t(options.threads), 1e9);
  const auto run = [&](int thread) {
    Scratch scratch;
    std::size_t turn = 0;
    const auto multiply = [&] {
      const PackedMatrix& matrix = work.matrices[turn++ % work.matrices.size()];
      const int64_t panels = matrix.panels();
      const Range share{panels * thread / options.threads, panels * (thread + 1) / options.threads};
      const Product product{&matrix, nullptr, work.y.data(), outputs, options.choice};
      kernels.multiply(work.input, product, {{0, rows}, share}, scratch);
    };
    const int repetitions = rows == 1 ? 8 : 1;  // long enough for the clock
    const double end = now(false) + options.seconds;
    while (now(false) < end) {
      const double start = now(options.busy);
      for (int n = 0; n < repetitions; ++n) multiply();
      const double seconds = (now(options.busy) - start) / repetitions;
      best[std::size_t(thread)] = std::min(best[std::size_t(thread)], seconds);
    }
  };
  std::vector<std::thread> team;
  for (int thread = 1; thread < options.threads; ++thread) team.emplace_back(run, thread);
  run(0);
  for (std::thread& thread : team) thread.join();
  return *std::max_element(best.begin(), best.end());
}

void bench(const Options& options) {
  const LinearKernels& kernels = linear_kernels(options.isa);
  std::printf("%-9s %-10s %-9s %5s %3s %10s %8s %8s\n", "isa", "in x out", "format", "rows", "thr",
              "us", "GB/s", "GMAC/s");
  for (const std::string& shape : options.shapes) {
    const int64_t inputs = std::stoll(shape),
                  outputs = std::stoll(shape.substr(shape.find('x') + 1));
    for (const std::string& format : options.formats)
      for (const int64_t rows : options.rows) {
        const int64_t group = is_masked(format) ? 32 : format_of(format).group;
        if (group != 0 && inputs % group != 0) continue;
        Work work = make_work(options, kernels, format, inputs, outputs, rows);
        const double seconds = best_time(options, kernels, work, outputs, rows);
        std::printf("%-9s %-10s %-9s %5d %3d %10.1f %8.2f %8.1f\n", isa_name(options.isa).data(),
                    shape.c_str(), format.c_str(), int(rows), options.threads, seconds * 1e6,
                    double(work.matrices[0].size_bytes()) / seconds / 1e9,
                    double(rows * inputs * outputs) / seconds / 1e9);
        std::fflush(stdout);
      }
  }
}

}  // namespace
}  // namespace slipstream

int main(int argc, char** argv) { slipstream::bench(slipstream::parse(argc, argv)); }
