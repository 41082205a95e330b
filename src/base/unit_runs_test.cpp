#include "base/unit_runs.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace dalsegno {
namespace {

TEST(UnitRuns, APartTakesItsNeighboursInOrderThenWhatOthersWouldTakeLast) {
  UnitRuns runs(2);
  runs.reset(7);
  for (const int unit : {0, 1, 2}) EXPECT_EQ(runs.take(0), unit);
  EXPECT_EQ(runs.take(1), 3);
  EXPECT_EQ(runs.take(0), 6);
  EXPECT_EQ(runs.take(1), 4);
  EXPECT_EQ(runs.take(0), 5);
  EXPECT_EQ(runs.take(0), -1);
  EXPECT_EQ(runs.take(1), -1);
}

TEST(UnitRuns, TheLastOfAnothersRunCanBeLeftToIt) {
  UnitRuns runs(2);
  runs.reset(6);
  for (const int unit : {0, 1, 2}) EXPECT_EQ(runs.take(0, 2), unit);
  EXPECT_EQ(runs.take(0, 2), 5);
  EXPECT_EQ(runs.take(0, 2), 4);
  EXPECT_EQ(runs.take(0, 2), -1);
  EXPECT_EQ(runs.take(1, 2), 3);
  EXPECT_EQ(runs.take(1, 2), -1);
}

TEST(UnitRuns, FewerUnitsThanPartsAreTakenOnceEach) {
  UnitRuns runs(4);
  for (const int count : {0, 1, 3}) {
    runs.reset(count);
    std::vector<int> taken;
    for (int unit; (unit = runs.take(2)) >= 0;) taken.push_back(unit);
    std::ranges::sort(taken);
    EXPECT_EQ(static_cast<int>(taken.size()), count);
    for (int i = 0; i < count; ++i) EXPECT_EQ(taken[static_cast<std::size_t>(i)], i);
  }
}

TEST(UnitRuns, ThreadsTakeEachUnitOnce) {
  constexpr int kParts = 4;
  constexpr int kUnits = 10000;
  UnitRuns runs(kParts);
  runs.reset(kUnits);
  std::vector<std::vector<int>> taken(kParts);
  std::vector<std::thread> threads;
  for (int part = 0; part < kParts; ++part) {
    threads.emplace_back([&, part] {
      for (int unit; (unit = runs.take(part)) >= 0;) taken[static_cast<std::size_t>(part)].push_back(unit);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<int> all;
  for (const std::vector<int>& each : taken) all.insert(all.end(), each.begin(), each.end());
  std::ranges::sort(all);
  ASSERT_EQ(all.size(), static_cast<std::size_t>(kUnits));
  for (int i = 0; i < kUnits; ++i) ASSERT_EQ(all[static_cast<std::size_t>(i)], i);
}

}  // namespace
}  // namespace dalsegno
