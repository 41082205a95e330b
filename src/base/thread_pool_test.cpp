#include "base/thread_pool.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace dalsegno {
namespace {

TEST(ThreadPool, RunsEveryPartOnceWhateverTheNumberOfThreads) {
  for (int threads : {1, 2, 3, 8, 64, 67}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(threads));
      pool.run([&](int part, int parts) {
        EXPECT_EQ(parts, threads);
        seen[static_cast<std::size_t>(part)].fetch_add(1);
      });
      for (const auto& count : seen) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, WakesWorkersThatHaveParked) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> sum{0};
    pool.run([&](int part, int) { sum.fetch_add(part + 1); });
    EXPECT_EQ(sum.load(), 6);
  }
}

TEST(ThreadPool, AnIdlePoolUsesNoProcessorTime) {
  ThreadPool pool(4);
  pool.run([](int, int) {});
  // Four spinning workers would use at least 300 ms, each time; on a busy machine they may park late.
  double used = 1;
  for (int i = 0; i < 5 && used >= 0.1; ++i) {
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    used = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  }
  EXPECT_LT(used, 0.1);
}

TEST(ThreadPool, EveryPartRunsWithDenormalsFlushed) {
  ThreadPool pool(2);
  pool.run([](int, int) {
    volatile float tiny = 1e-38F;
    EXPECT_EQ(tiny * 0.01F, 0.0F);
  });
}

}  // namespace
}  // namespace dalsegno
