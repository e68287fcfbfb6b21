#include "step/team.h"

#include <sched.h>
#include <unistd.h>

#include <chrono>
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

// Spins until `ready`; after `spins` pauses (about 2 µs per hundred on Zen 3) it yields the core
// at every look, so that an oversubscribed machine makes progress.
template <class Ready>
inline void spin_until(Ready ready, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (ready()) return;
    pause_core();
  }
  while (!ready()) sched_yield();
}

constexpr int kBarrierSpins = 400;
// Between steps a thread spins as long as a scheduler needs to sample and plan, so that the next
// step need not wake it (20 … 50 µs in a virtual machine); it yields its core at every look but the
// first few, since a Python thread may be waiting for it.
constexpr auto kIdleSpin = std::chrono::microseconds(1000);

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

void Team::barrier() {
  if (size_ == 1) return;
  const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return phase_.load(std::memory_order_acquire) != phase; }, kBarrierSpins);
}

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
    const auto deadline = std::chrono::steady_clock::now() + kIdleSpin;
    const auto begun = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    spin_until([&] { return begun() || std::chrono::steady_clock::now() > deadline; }, kBarrierSpins);
    while (!begun()) generation_.wait(seen);
    ++seen;
    if (stopping_.load()) return;
    job_(context_, thread);
    barrier();
  }
}

}  // namespace slipstream
