// Measures what this machine reaches at most: bytes read per second, multiply-adds per second.
//
// Called once by `machine_ceilings.py`, which keeps the result. Independent of the kernels and of
// their thread team, so that a ceiling is never a measurement of ourselves.

#include "probe_loops.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace slipstream::probe {

using Clock = std::chrono::steady_clock;
using Work = std::function<double(int thread)>;  // one turn of a thread: what it did

static double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One sample: all threads begin together and each repeats `work` for `duration_s`; the sum of
// their rates, each over its own time, is what the machine did per second.
static double sample(int threads, double duration_s, const Work& work) {
  std::atomic<int> waiting{threads};
  std::vector<double> rates(threads);
  auto run = [&](int thread) {
    waiting.fetch_sub(1);
    while (waiting.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    auto start = Clock::now();
    double done = 0, elapsed;
    do {
      done += work(thread);
      elapsed = seconds_since(start);
    } while (elapsed < duration_s);
    rates[thread] = done / elapsed;
  };
  std::vector<std::thread> team;
  for (int thread = 1; thread < threads; ++thread) team.emplace_back(run, thread);
  run(0);
  for (std::thread& member : team) member.join();
  double total = 0;
  for (double rate : rates) total += rate;
  return total;
}

// One unmeasured sample warms caches and clocks; then `samples` of them.
static std::vector<double> measure(int threads, int samples, double duration_s, const Work& work) {
  std::vector<double> rates;
  sample(threads, duration_s, work);
  for (int i = 0; i < samples; ++i) rates.push_back(sample(threads, duration_s, work));
  return rates;
}

static void check(int threads, int samples, double duration_s) {
  if (threads < 1 || threads > 4096 || samples < 1 || samples > 1000)
    throw std::invalid_argument("threads must be 1…4096 and samples 1…1000");
  if (!(duration_s > 0 && duration_s <= 10))
    throw std::invalid_argument("a sample takes more than 0 and at most 10 seconds");
}

// ---- what the processor has ---------------------------------------------------------------------

#if defined(__x86_64__)
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

// AMX must be there, and the system must grant its state to this process.
static bool has_amx() {
  unsigned a, b, c, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
  if ((d & (bf16 | tile | int8)) != (bf16 | tile | int8)) return false;
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

// ---- reading memory -----------------------------------------------------------------------------

static size_t read_words(const uint64_t* words, size_t count) {
#if defined(__x86_64__)
  static const int level = has_avx512() ? 2 : has_avx2() ? 1 : 0;
  if (level == 2) return read_avx512(words, count);
  if (level == 1) return read_avx2(words, count);
#endif
  return read_portable(words, count);
}

// A piece of memory in large pages where the system gives them; written once, by its reader.
class Buffer {
 public:
  explicit Buffer(size_t size_bytes) : size_(size_bytes) {
    constexpr size_t large_page = size_t{2} << 20;
    size_t rounded = (size_bytes + large_page - 1) / large_page * large_page;
    data_.reset(static_cast<uint64_t*>(std::aligned_alloc(large_page, rounded)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
  }
  void fill() { std::memset(data_.get(), 1, size_); }
  const uint64_t* words() const { return data_.get(); }
  size_t count() const { return size_ / sizeof(uint64_t); }

 private:
  struct Free {
    void operator()(uint64_t* pointer) const { std::free(pointer); }
  };
  size_t size_;
  std::unique_ptr<uint64_t, Free> data_;
};

// Bytes per second of `threads` threads that read `size_bytes` together, each its own share.
static std::vector<double> read_rates(size_t size_bytes, int threads, int samples,
                                      double duration_s) {
  check(threads, samples, duration_s);
  size_t share = size_bytes / threads / 4096 * 4096;
  if (share == 0) throw std::invalid_argument("at least 4096 bytes per thread are needed");
  std::vector<Buffer> buffers;
  for (int i = 0; i < threads; ++i) buffers.emplace_back(share);
  std::vector<std::thread> writers;  // first touch decides the memory node, so each fills its own
  for (Buffer& buffer : buffers) writers.emplace_back([&buffer] { buffer.fill(); });
  for (std::thread& writer : writers) writer.join();

  // Pieces of at most 1 MiB, so that a sample ends near its time however large the buffer is.
  std::vector<size_t> places(threads * 16, 0);  // 128 bytes apart
  constexpr size_t piece = (size_t{1} << 20) / sizeof(uint64_t);
  return measure(threads, samples, duration_s, [&](int thread) {
    const Buffer& buffer = buffers[thread];
    size_t& place = places[thread * 16];
    size_t count = std::min(piece, buffer.count() - place);
    size_t done = read_words(buffer.words() + place, count);
    place = place + count < buffer.count() ? place + count : 0;
    return static_cast<double>(done);
  });
}

// ---- multiply-adds ------------------------------------------------------------------------------

using Loop = double (*)(size_t turns);

// The best loop of an instruction set; `isa` is one of machine_facts.ISA_FLAGS.
static Loop loop_of(const std::string& kind, const std::string& isa) {
  int column = kind == "f32" ? 0 : kind == "int8" ? 1 : kind == "bf16" ? 2 : -1;
  if (column < 0) throw std::invalid_argument("kind must be f32, int8 or bf16");
#if defined(__x86_64__)
  if (isa == "amx" && has_amx()) {
    static constexpr Loop loops[] = {f32_avx512, int8_amx, bf16_amx};
    return loops[column];
  }
  if (isa == "avx512" && has_avx512()) {
    static constexpr Loop loops[] = {f32_avx512, int8_vnni, bf16_avx512};
    return loops[column];
  }
  if (isa == "avx2" && has_avx2()) {
    static constexpr Loop loops[] = {f32_avx2, int8_avx2, bf16_avx2};
    return loops[column];
  }
#endif
  if (isa == "portable" || isa == "neon" || isa == "i8mm") {  // of ARM the compiler's own
    static constexpr Loop loops[] = {f32_portable, int8_portable, bf16_portable};
    return loops[column];
  }
  throw std::invalid_argument("this processor has no instruction set called " + isa);
}

static std::vector<double> dot_rates(const std::string& kind, const std::string& isa, int threads,
                                     int samples, double duration_s) {
  check(threads, samples, duration_s);
  Loop loop = loop_of(kind, isa);
  constexpr size_t turns = 2000;  // tens of microseconds: the clock costs nothing beside it
  return measure(threads, samples, duration_s, [loop](int) { return loop(turns); });
}

}  // namespace slipstream::probe

void bind_probe(nanobind::module_& m) {
  namespace nb = nanobind;
  using namespace slipstream::probe;
  m.def("probe_read", &read_rates, nb::arg("size_bytes"), nb::arg("threads"), nb::arg("samples"),
        nb::arg("sample_s"), nb::call_guard<nb::gil_scoped_release>(),
        "Bytes per second read by `threads` threads from `size_bytes` in all, one per sample.");
  m.def("probe_dot", &dot_rates, nb::arg("kind"), nb::arg("isa"), nb::arg("threads"),
        nb::arg("samples"), nb::arg("sample_s"), nb::call_guard<nb::gil_scoped_release>(),
        "Operations per second (a multiply-add is two) of kind f32, int8 or bf16, one per sample.");
}
