#include "base/memory_budget.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

namespace dalsegno {
namespace {

TEST(MemoryBudget, WhatIsReservedIsTakenUntilTheReservationEnds) {
  MemoryBudget budget(100);
  {
    const auto weights = budget.reserve(MemoryKind::weights, 60, "weights");
    const auto kv = budget.reserve(MemoryKind::kv, 30, "K/V");
    ASSERT_TRUE(weights.ok() && kv.ok());
    EXPECT_EQ(budget.used(), 90U);
    EXPECT_EQ(budget.free_bytes(), 10U);
    EXPECT_EQ(budget.used(MemoryKind::weights), 60U);
    EXPECT_EQ(budget.used(MemoryKind::kv), 30U);
    EXPECT_EQ(budget.used(MemoryKind::index), 0U);
  }
  EXPECT_EQ(budget.used(), 0U);
  EXPECT_EQ(budget.used(MemoryKind::weights), 0U);
}

TEST(MemoryBudget, RefusesWhatIsTooMuchInASentence) {
  MemoryBudget budget(100);
  const auto all = budget.reserve(MemoryKind::work, 100, "everything");
  ASSERT_TRUE(all.ok());
  const auto more = budget.reserve(MemoryKind::work, 2, "one thing more");
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.error().code, ErrorCode::exhausted);
  EXPECT_EQ(
      more.error().message,
      "one thing more needs 2 bytes, but only 0 bytes of the memory budget of 100 bytes are free; raise --memory");
  EXPECT_EQ(budget.used(), 100U);
  EXPECT_FALSE(budget.reserve(MemoryKind::work, ~0ULL, "a number that would wrap around").ok());
  EXPECT_TRUE(budget.reserve(MemoryKind::work, 0, "nothing").ok());
}

TEST(MemoryBudget, SizesThatWouldReadAlikeAreToldToTheByte) {
  constexpr std::uint64_t kMiB = 1ULL << 20;
  EXPECT_EQ(told_apart(9 * kMiB, 8 * kMiB), std::pair(std::string("9.0 MiB"), std::string("8.0 MiB")));
  EXPECT_EQ(told_apart(8 * kMiB, 8 * kMiB - 1), std::pair(std::string("8388608 bytes"), std::string("8388607 bytes")));
  EXPECT_EQ(told_apart(8 * kMiB, 8 * kMiB), std::pair(std::string("8.0 MiB"), std::string("8.0 MiB")));
  const MemoryBudget budget(8 * kMiB);
  EXPECT_EQ(too_much_for(budget, 9 * kMiB, kMiB),
            "9.0 MiB, but only 1.0 MiB of the memory budget of 8.0 MiB are free; raise --memory");
  EXPECT_EQ(too_much_for(budget, 9 * kMiB, 8 * kMiB), "9.0 MiB, but the memory budget is 8.0 MiB; raise --memory");
}

TEST(MemoryBudget, AReservationMovesAndIsReleasedOnce) {
  MemoryBudget budget(100);
  auto first = budget.reserve(MemoryKind::kv, 40, "first");
  auto second = budget.reserve(MemoryKind::index, 50, "second");
  ASSERT_TRUE(first.ok() && second.ok());
  Reservation moved = std::move(first).value();
  EXPECT_EQ(moved.bytes(), 40U);
  EXPECT_EQ(first.value().bytes(), 0U);  // NOLINT(bugprone-use-after-move): that it is empty is promised
  moved = std::move(second).value();
  EXPECT_EQ(budget.used(), 50U) << "what it held before is given back";
  EXPECT_EQ(budget.used(MemoryKind::kv), 0U);
  Reservation& itself = moved;
  moved = std::move(itself);
  EXPECT_EQ(moved.bytes(), 50U);
  moved.release();
  moved.release();
  EXPECT_EQ(budget.used(), 0U);
}

TEST(MemoryBudget, NoThreadEverSeesMoreThanTheLimit) {
  constexpr std::uint64_t kLimit = 1000;
  MemoryBudget budget(kLimit);
  std::atomic<int> exceeded{0};
  std::atomic<int> refused{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < 2000; ++i) {
          const auto held = budget.reserve(MemoryKind::work, (i * 7 + t) % 600, "a share");
          refused += held.ok() ? 0 : 1;
          exceeded += budget.used() > kLimit ? 1 : 0;
        }
      });
    }
  }
  const auto half = budget.reserve(MemoryKind::kv, 501, "the larger half");
  refused += budget.reserve(MemoryKind::work, 500, "the other").ok() ? 0 : 1;
  EXPECT_EQ(exceeded.load(), 0);
  EXPECT_GT(refused.load(), 0);
  EXPECT_EQ(budget.used(), 501U);
  EXPECT_EQ(budget.used(MemoryKind::work), 0U);
}

TEST(MemoryBudget, BytesAreWrittenForPeople) {
  EXPECT_EQ(human_bytes(1), "1 byte");
  EXPECT_EQ(human_bytes(12), "12 bytes");
  EXPECT_EQ(human_bytes(1024), "1 KiB");
  EXPECT_EQ(human_bytes(300ULL << 20), "300.0 MiB");
  EXPECT_EQ(human_bytes(3ULL << 29), "1.50 GiB");
}

}  // namespace
}  // namespace dalsegno
