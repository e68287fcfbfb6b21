// Threads meet at every barrier, each piece of work is done once, and more threads than cores work.

#include "step/team.h"

#include <numeric>
#include <vector>

#include "tests/claims.h"

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
  }
  a_team_sleeps_and_wakes();
  return failed_claims;
}
