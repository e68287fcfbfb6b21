#include "step/team.h"

#include <unistd.h>

#include <stdexcept>

namespace slipstream {
namespace {

inline void pause_core() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A thread that waits spins, then sleeps. It never yields: on a crowded machine that costs a whole
// time slice of the others (4 ms), where a sleeper is woken at once. Longer spins cost the same
// way: with 2 threads on 2 cores that 6 other processes want, a token of SmolLM2 took 25 ms with
// 200 or 600 pauses, 32 with 2000, 51 with 6000. A pause is about 18 ns (Zen 3), most waits are
// under 10 µs.
constexpr int kBarrierSpins = 1000;
constexpr int kIdleSpins = 3000;

}  // namespace

Team::Team(int size) : size_(size), owner_(getpid()) {
  if (size < 1 || size > 1024) throw std::invalid_argument("threads must be in 1…1024");
  threads_.reserve(size - 1);
  for (int thread = 1; thread < size; ++thread) {
    threads_.emplace_back([this, thread] { serve(thread); });
  }
}

Team::~Team() {
  if (getpid() != owner_) {
    for (auto& thread : threads_) thread.detach();
    return;
  }
  stopping_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::wait_while(std::atomic<std::uint32_t>& value, std::uint32_t old, int spins) {
  const auto changed = [&] { return value.load(std::memory_order_acquire) != old; };
  for (int i = 0; i < spins; ++i) {
    if (changed()) return;
    pause_core();
  }
  while (!changed()) value.wait(old, std::memory_order_acquire);
}

void Team::wait_for(std::uint32_t phase) { wait_while(phase_, phase, kBarrierSpins); }

void Team::start(Job job, void* context) {
  if (getpid() != owner_) {
    throw std::runtime_error("this program was made before a fork: compile it again in the child");
  }
  job_ = job;
  context_ = context;
  if (size_ > 1) {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }
  job(context, 0);
  barrier();
}

void Team::serve(int thread) {
  std::uint32_t seen = 0;
  while (true) {
    wait_while(generation_, seen, kIdleSpins);
    ++seen;
    if (stopping_.load()) return;
    job_(context_, thread);
    barrier();
  }
}

void SharedRuns::reset(int count) {
  const auto threads = static_cast<std::int64_t>(runs_.size());
  for (std::int64_t i = 0; i < threads; ++i) {
    const std::int64_t begin = count * i / threads;
    const std::int64_t end = count * (i + 1) / threads;
    runs_[i].left.store(pack(begin, end), std::memory_order_relaxed);
  }
}

int SharedRuns::take(int thread) {
  const int own = take_first(runs_[thread]);
  if (own >= 0) return own;
  const auto threads = static_cast<int>(runs_.size());
  for (int i = 1; i < threads; ++i) {
    const int other = take_last(runs_[(thread + i) % threads]);
    if (other >= 0) return other;
  }
  return -1;
}

int SharedRuns::take_first(Run& run) {
  std::uint64_t left = run.left.load(std::memory_order_relaxed);
  while (first_of(left) < end_of(left)) {
    const std::uint64_t rest = pack(first_of(left) + 1, end_of(left));
    if (run.left.compare_exchange_weak(left, rest, std::memory_order_relaxed))
      return static_cast<int>(first_of(rest)) - 1;
  }
  return -1;
}

int SharedRuns::take_last(Run& run) {
  std::uint64_t left = run.left.load(std::memory_order_relaxed);
  while (first_of(left) < end_of(left)) {
    const std::uint64_t rest = pack(first_of(left), end_of(left) - 1);
    if (run.left.compare_exchange_weak(left, rest, std::memory_order_relaxed))
      return static_cast<int>(end_of(rest));
  }
  return -1;
}

}  // namespace slipstream
