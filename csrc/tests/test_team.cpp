// Threads meet at every barrier, each piece of work is done once, and more threads than cores work.

#include "step/team.h"

#include <numeric>
#include <vector>

#include "tests/claims.h"

using slipstream::SharedRuns;
using slipstream::Team;
using slipstream::WorkQueue;

static void every_thread_sees_what_all_wrote_before_the_barrier(int threads) {
  Team team(threads);
  std::vector<int> written(threads * 16, 0);
  int wrong = 0;
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> mistakes{0};
    auto work = [&](int thread) {
      for (int phase = 0; phase < 20; ++phase) {
        written[thread * 16] = round * 100 + phase;
        team.barrier();
        for (int other = 0; other < threads; ++other) {
          if (written[other * 16] != round * 100 + phase) ++mistakes;
        }
        team.barrier();
      }
    };
    team.run(work);
    wrong += mistakes;
  }
  CLAIM(wrong == 0);
}

static void a_queue_hands_out_each_number_once(int threads) {
  Team team(threads);
  WorkQueue queue;
  std::vector<int> taken(1000, 0);
  auto work = [&](int) {
    for (int i = queue.take(); i < 1000; i = queue.take()) ++taken[i];
  };
  team.run(work);
  CLAIM(std::accumulate(taken.begin(), taken.end(), 0) == 1000);
  for (int count : taken) CLAIM(count == 1);
}

static void runs_hand_out_each_number_once(int threads, int count) {
  Team team(threads);
  SharedRuns runs(threads);
  for (int round = 0; round < 20; ++round) {
    runs.reset(count);
    std::vector<std::atomic<int>> taken(count);
    auto work = [&](int thread) {
      for (int i = runs.take(thread); i >= 0; i = runs.take(thread)) ++taken[i];
    };
    team.run(work);
    for (const auto& times : taken) CLAIM(times == 1);
    for (int thread = 0; thread < threads; ++thread) CLAIM(runs.first(thread) == -1);
  }
}

static void a_thread_walks_its_own_run_then_helps_from_the_end() {
  SharedRuns runs(2);
  runs.reset(7);  // 0 1 2 and 3 4 5 6
  CLAIM(runs.first(0) == 0 && runs.first(1) == 3);
  for (int expected : {0, 1, 2, 6, 5}) CLAIM(runs.take(0) == expected);
  for (int expected : {3, 4, -1}) CLAIM(runs.take(1) == expected);
  CLAIM(runs.take(0) == -1);
}

static void who_waits_at_a_barrier_does_something_meanwhile() {
  Team team(2);
  int pieces = 0;
  auto work = [&](int thread) {
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    team.barrier([] {}, [&] { return ++pieces < 5; });
  };
  team.run(work);
  CLAIM(pieces <= 5);  // by one of them, or neither if both came at once
}

static void a_team_sleeps_and_wakes() {
  Team team(2);
  int done = 0;
  auto work = [&](int thread) {
    if (thread == 1) ++done;
  };
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    team.run(work);
  }
  CLAIM(done == 5);
}

int main() {
  for (int threads : {1, 2, 3, 7}) {
    every_thread_sees_what_all_wrote_before_the_barrier(threads);
    a_queue_hands_out_each_number_once(threads);
    for (int count : {0, 1, 5, 1000}) runs_hand_out_each_number_once(threads, count);
  }
  a_thread_walks_its_own_run_then_helps_from_the_end();
  who_waits_at_a_barrier_does_something_meanwhile();
  a_team_sleeps_and_wakes();
  return failed_claims;
}
