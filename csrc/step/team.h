// A team of persistent threads that run one function together: the calling thread is thread 0.
//
// The step executor starts it once per step; inside, `barrier` separates operations. Threads that
// wait spin for a moment, then sleep: a Python thread may need their core, or the machine may have
// fewer cores to give than it says.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace slipstream {

class Team {
 public:
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs work(thread) on every thread of the team and returns when all have finished. The work
  // must not throw. One caller at a time.
  template <class Work>
  void run(Work& work) {
    start([](void* context, int thread) { (*static_cast<Work*>(context))(thread); }, &work);
  }

  // Waits until every thread of the team has come here. Only inside `run`, by all of them.
  void barrier() {
    barrier([] {});
  }

  // The same; the last to come does `between` before any goes on.
  template <class Between>
  void barrier(Between between) {
    barrier(between, [] { return false; });
  }

  // The same; who waits does a piece of `meanwhile` after the other, until it returns false.
  template <class Between, class Meanwhile>
  void barrier(Between between, Meanwhile meanwhile) {
    const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) < size_ - 1) {
      while (phase_.load(std::memory_order_acquire) == phase && meanwhile()) {
      }
      return wait_for(phase);
    }
    arrived_.store(0, std::memory_order_relaxed);
    between();
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();  // no system call unless somebody sleeps
  }

 private:
  using Job = void (*)(void* context, int thread);

  void start(Job job, void* context);
  void serve(int thread);
  void wait_for(std::uint32_t phase);  // until it has passed
  static void wait_while(std::atomic<std::uint32_t>& value, std::uint32_t old, int spins);

  const int size_;
  const long owner_;  // the process that made the threads: a fork does not inherit them
  Job job_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // rises by one with every run
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> phase_{0};  // rises by one with every barrier passed
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

// Hands out the numbers 0, 1, 2 … to the threads that share an operation.
class WorkQueue {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  int take() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<int> next_{0};
};

// Hands out the numbers 0 … count - 1 so that each thread goes through a run of them, in order, and
// takes the last of another's when its own are done: what it reads stays in one stream, and a
// thread that is disturbed is helped.
class SharedRuns {
 public:
  explicit SharedRuns(int threads) : runs_(threads) {}

  void reset(int count);
  // The next number for `thread`; -1 when all are taken.
  int take(int thread);
  // The next of the thread's own run; -1 when it is done.
  int first(int thread) const {
    const std::uint64_t left = runs_[thread].left.load(std::memory_order_relaxed);
    return first_of(left) < end_of(left) ? static_cast<int>(first_of(left)) : -1;
  }

 private:
  struct alignas(64) Run {
    std::atomic<std::uint64_t> left{0};  // its first number above, the one after its last below
  };
  static std::uint64_t pack(std::uint64_t first, std::uint64_t end) { return first << 32 | end; }
  static std::uint64_t first_of(std::uint64_t left) { return left >> 32; }
  static std::uint64_t end_of(std::uint64_t left) { return left & 0xffffffff; }
  static int take_first(Run& run);
  static int take_last(Run& run);

  std::vector<Run> runs_;
};

}  // namespace slipstream
