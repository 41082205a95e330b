#include "cache/block_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

namespace dalsegno {
namespace {

constexpr std::size_t kPage = 1024;
constexpr std::uint64_t kExtent = 8 * kPage;  // 8 pages: whole pages of the system where those are 4 or 8 KiB

class BlockPoolTest : public testing::Test {
 protected:
  void make(std::uint32_t max_pages, std::uint64_t budget_bytes = 64 << 20, std::size_t page_bytes = kPage) {
    budget_ = std::make_unique<MemoryBudget>(budget_bytes);
    auto pool = BlockPool::create(
        {.page_bytes = page_bytes, .max_pages = max_pages, .budget = budget_.get(), .extent_bytes = kExtent});
    ASSERT_TRUE(pool.ok()) << pool.error().message;
    pool_ = std::move(pool).value();
    bookkeeping_ = budget_->used();
  }
  PageId take() {
    const auto page = pool_->allocate();
    EXPECT_TRUE(page.has_value());
    EXPECT_EQ(pool_->check_invariants(), "");
    return page.value_or(kNoPage);
  }
  void drop(PageId page) {
    pool_->release(page);
    EXPECT_EQ(pool_->check_invariants(), "");
  }

  std::unique_ptr<MemoryBudget> budget_;
  std::unique_ptr<BlockPool> pool_;
  std::uint64_t bookkeeping_ = 0;
};

TEST_F(BlockPoolTest, AChainOfNoPagesIsAnIdWithReferencesAlone) {
  MemoryBudget budget(1 << 20);
  auto made = BlockPool::create(
      {.page_bytes = kPage, .max_pages = 4, .max_empty = 3, .budget = &budget, .extent_bytes = kExtent});
  ASSERT_TRUE(made.ok());
  BlockPool& pool = **made;
  std::set<PageId> empty;
  for (int i = 0; i < 3; ++i) {
    const auto chain = pool.allocate(0);
    ASSERT_TRUE(chain.has_value());
    EXPECT_TRUE(pool.is_empty(*chain));
    EXPECT_EQ(pool.next(*chain), kNoPage);
    empty.insert(*chain);
  }
  EXPECT_EQ(empty.size(), 3U);
  EXPECT_EQ(pool.allocate(0), std::nullopt);
  EXPECT_EQ(pool.empty_available(), 0U);
  EXPECT_EQ(pool.used(), 0U);
  EXPECT_EQ(budget.used(MemoryKind::kv), 0U);
  EXPECT_EQ(pool.check_invariants(), "");
  const PageId shared = *empty.begin();
  pool.retain(shared);
  EXPECT_EQ(pool.release(shared), 1U);
  EXPECT_EQ(pool.release(shared), 0U);
  EXPECT_EQ(pool.allocate(0), shared);
  EXPECT_EQ(pool.check_invariants(), "");
  for (const PageId chain : empty) pool.release(chain);
  EXPECT_EQ(pool.empty_available(), 3U);
  const auto page = pool.allocate();
  ASSERT_TRUE(page.has_value());
  EXPECT_FALSE(pool.is_empty(*page));
  EXPECT_EQ(pool.check_invariants(), "");
}

TEST_F(BlockPoolTest, TakesNothingForPagesUntilTheFirstIsWanted) {
  make(1000);
  EXPECT_EQ(budget_->used(MemoryKind::kv), 0U);
  take();
  EXPECT_EQ(budget_->used(MemoryKind::kv), pool_->committed_bytes());
  EXPECT_GE(pool_->committed_bytes(), kExtent);
  EXPECT_LT(pool_->committed_bytes(), 1000 * kPage);
}

TEST_F(BlockPoolTest, LendsEachPageOnceAtAlignedDistinctAddresses) {
  make(100);
  std::set<std::byte*> seen;
  for (int i = 0; i < 100; ++i) {
    std::byte* at = pool_->address(take());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % 64, 0U);
    seen.insert(at);
    std::memset(at, 0xAB, kPage);
  }
  EXPECT_EQ(seen.size(), 100U);
  EXPECT_FALSE(pool_->allocate().has_value());
  EXPECT_EQ(pool_->available(), 0U);
}

TEST_F(BlockPoolTest, FreshPagesAreZeroAndOddSizesDoNotOverlap) {
  make(50, 64 << 20, 1000);
  std::vector<std::byte*> pages;
  for (int i = 0; i < 50; ++i) {
    std::byte* at = pool_->address(take());
    EXPECT_TRUE(std::all_of(at, at + 1000, [](std::byte b) { return b == std::byte{0}; })) << "page " << i;
    std::memset(at, i + 1, 1000);
    pages.push_back(at);
  }
  for (std::size_t i = 0; i < pages.size(); ++i) {
    EXPECT_TRUE(std::all_of(pages[i], pages[i] + 1000, [&](std::byte b) { return b == std::byte(i + 1); }));
  }
}

TEST_F(BlockPoolTest, APageIsFreeOnlyWhenItsLastReferenceGoes) {
  make(1);
  const PageId page = take();
  pool_->retain(page);
  EXPECT_EQ(pool_->references(page), 2U);
  EXPECT_EQ(pool_->release(page), 1U);
  EXPECT_FALSE(pool_->allocate().has_value());
  EXPECT_EQ(pool_->release(page), 0U);
  EXPECT_EQ(take(), page);
}

TEST_F(BlockPoolTest, GivesBackAnEmptyExtentWhenAnotherIsEmptyToo) {
  make(1000);
  std::vector<PageId> pages(200);
  for (PageId& page : pages) page = take();
  for (const PageId page : pages) std::memset(pool_->address(page), 0x77, kPage);
  const std::uint64_t most = budget_->used(MemoryKind::kv);
  for (const PageId page : pages) drop(page);
  EXPECT_LE(budget_->used(MemoryKind::kv), most / 2);
  EXPECT_GT(budget_->used(MemoryKind::kv), 0U) << "one stays, for the next sequence";
  pool_->give_back();
  EXPECT_EQ(budget_->used(MemoryKind::kv), 0U);
  EXPECT_EQ(pool_->check_invariants(), "");
  const PageId again = take();
  EXPECT_EQ(*pool_->address(again), std::byte{0});
}

TEST_F(BlockPoolTest, KeepsAnExtentOfWhichOnePageIsLent) {
  make(1000);
  std::vector<PageId> pages(200);
  for (PageId& page : pages) page = take();
  std::memset(pool_->address(pages[100]), 0x5A, kPage);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (i != 100) drop(pages[i]);
  }
  pool_->give_back();
  EXPECT_EQ(pool_->used(), 1U);
  EXPECT_EQ(pool_->address(pages[100])[kPage - 1], std::byte{0x5A});
  EXPECT_GT(budget_->used(MemoryKind::kv), 0U);
  drop(pages[100]);
}

TEST_F(BlockPoolTest, UsesABudgetSmallerThanOneExtentAndGrowsWithIt) {
  budget_ = std::make_unique<MemoryBudget>(1 << 20);
  auto pool =
      BlockPool::create({.page_bytes = kPage, .max_pages = 500, .budget = budget_.get(), .extent_bytes = 256 * kPage});
  ASSERT_TRUE(pool.ok());
  pool_ = std::move(pool).value();
  auto others = budget_->reserve(MemoryKind::work, budget_->free_bytes() - 5 * kPage - 100, "others");
  ASSERT_TRUE(others.ok());
  EXPECT_EQ(pool_->available(), 5U);
  for (int i = 0; i < 5; ++i) take();
  EXPECT_FALSE(pool_->allocate().has_value());
  others.value().release();
  EXPECT_EQ(pool_->available(), 495U);
  for (int i = 0; i < 495; ++i) std::memset(pool_->address(take()), 1, kPage);
  EXPECT_FALSE(pool_->allocate().has_value());
  EXPECT_EQ(budget_->used(MemoryKind::kv), 500 * kPage);
}

TEST_F(BlockPoolTest, ImpossibleSizesAreSentences) {
  MemoryBudget budget(1 << 20);
  EXPECT_EQ(BlockPool::create({.page_bytes = 0, .max_pages = 1, .budget = &budget}).error().code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(BlockPool::create({.page_bytes = kPage, .max_pages = 1}).error().code, ErrorCode::invalid_argument);
  const auto huge = BlockPool::create({.page_bytes = kPage, .max_pages = 1U << 30, .budget = &budget});
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(huge.error().code, ErrorCode::exhausted);
  EXPECT_EQ(budget.used(), 0U);
}

}  // namespace
}  // namespace dalsegno
