#include "cache/prefix_index.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string_view>
#include <vector>

#include "cache/cache_test_support.hpp"

namespace dalsegno {
namespace {

using cache_test::counting;
using cache_test::joined;
using cache_test::salted;
using cache_test::Tokens;

class PrefixIndexTest : public testing::Test {
 protected:
  void make(std::uint32_t pages, std::uint32_t ghosts, std::string_view policy = "lru") {
    index_ =
        std::make_unique<PrefixIndex>(pages, ghosts, budget_, Reservation{}, *find_eviction_policy(policy).value());
    tree_ = index_->enter(salted("a"));
  }
  void TearDown() override { EXPECT_EQ(index_->check_invariants(), ""); }

  // Adds a block nobody holds; pages are numbered as they come.
  IndexNode& add(IndexNode& parent, const Tokens& tokens) {
    const auto inserted = index_->insert(parent, tokens, PageId{pages_});
    EXPECT_TRUE(inserted.added);
    ++pages_;
    index_->set_held(*inserted.node, false);
    return *inserted.node;
  }
  PageId evict() { return index_->evict(PrefixIndex::Remember::yes); }
  Stopped why(const Tokens& tokens) const {
    return index_->why(salted("a"), tree_, index_->match(*tree_, tokens), tokens);
  }

  MemoryBudget budget_{1 << 30};
  std::unique_ptr<PrefixIndex> index_;
  PrefixTree* tree_ = nullptr;
  std::uint32_t pages_ = 0;
};

TEST_F(PrefixIndexTest, MatchesToTheTokenInsideABlock) {
  make(10, 0);
  IndexNode& first = add(*tree_, counting(0, 16));
  IndexNode& second = add(first, counting(16, 16));
  const auto match = index_->match(*tree_, joined(counting(0, 21), {99, 98}));
  ASSERT_EQ(match.blocks, std::vector<IndexNode*>{&first});
  EXPECT_EQ(match.partial, &second);
  EXPECT_EQ(match.tokens(), 21);
}

TEST_F(PrefixIndexTest, ALongerBlockReplacesItsBeginningAndAShorterOneIsNotAdded) {
  make(10, 4);
  add(*tree_, {1, 2, 3});
  const Tokens longer{1, 2, 3, 4, 5};
  const auto inserted = index_->insert(*tree_, longer, PageId{pages_++});
  EXPECT_TRUE(inserted.added);
  EXPECT_EQ(inserted.dropped, PageId{0});
  EXPECT_EQ(index_->node_of(PageId{0}), nullptr);
  const auto shorter = index_->insert(*tree_, Tokens{1, 2}, PageId{pages_});
  EXPECT_FALSE(shorter.added);
  EXPECT_EQ(shorter.node, inserted.node);
  const auto same = index_->insert(*tree_, longer, PageId{pages_});
  EXPECT_FALSE(same.added);
  EXPECT_EQ(index_->live(), 1U);
  EXPECT_EQ(index_->ghosts(), 0U) << "a beginning that was continued is not a loss";
}

TEST_F(PrefixIndexTest, EvictsTheLeafUsedLongestAgoAndParentsAfterChildren) {
  make(10, 10);
  IndexNode& stem = add(*tree_, counting(0, 16));   // page 0
  IndexNode& left = add(stem, counting(100, 16));   // page 1
  IndexNode& right = add(stem, counting(200, 16));  // page 2
  add(right, {5});                                  // page 3
  index_->touch(left);
  EXPECT_EQ(evict(), PageId{3});
  EXPECT_EQ(evict(), PageId{2});
  EXPECT_EQ(evict(), PageId{1});
  EXPECT_EQ(evict(), PageId{0});
  EXPECT_EQ(evict(), kNoPage);
}

TEST_F(PrefixIndexTest, WhatIsHeldIsNotEvictedAndNeitherIsItsParent) {
  make(10, 10);
  IndexNode& stem = add(*tree_, counting(0, 16));
  index_->set_held(stem, true);
  const auto leaf = index_->insert(stem, Tokens{7}, PageId{pages_++});
  IndexNode& taken = add(*tree_, {40});
  index_->set_held(taken, true);
  add(*tree_, {50});
  EXPECT_EQ(index_->evictable(), 1U);
  EXPECT_EQ(evict(), PageId{3});
  EXPECT_EQ(evict(), kNoPage);
  index_->set_held(*leaf.node, false);
  EXPECT_EQ(evict(), PageId{1});
  EXPECT_EQ(evict(), kNoPage);
  index_->set_held(stem, false);
  EXPECT_EQ(evict(), PageId{0});
  EXPECT_EQ(evict(), kNoPage);
  index_->set_held(taken, false);
  EXPECT_EQ(evict(), PageId{2});
}

TEST_F(PrefixIndexTest, RemembersABoundedNumberOfEvictedBlocks) {
  make(100, 3);
  for (TokenId t = 0; t < 10; ++t) add(*tree_, {t, t, t});
  for (int i = 0; i < 10; ++i) {
    evict();
    EXPECT_EQ(index_->check_invariants(), "");
    EXPECT_LE(index_->ghosts(), 3U);
  }
  EXPECT_EQ(why({9, 9}), Stopped::evicted);
  EXPECT_EQ(why({0, 0}), Stopped::cold);
  index_->forget_ghosts();
  EXPECT_EQ(why({9, 9}), Stopped::cold);
}

TEST_F(PrefixIndexTest, ABlockComputedAgainRevivesWhatIsRememberedBelowIt) {
  make(10, 10);
  IndexNode& first = add(*tree_, counting(0, 16));
  add(first, counting(16, 16));
  evict();
  evict();
  EXPECT_EQ(why(counting(0, 32)), Stopped::evicted);
  IndexNode& again = add(*tree_, counting(0, 16));
  EXPECT_EQ(index_->match(*tree_, counting(0, 32)).tokens(), 16);
  EXPECT_EQ(why(counting(0, 32)), Stopped::evicted);
  EXPECT_EQ(index_->ghosts(), 1U);
  add(again, counting(16, 16));
  EXPECT_EQ(why(counting(0, 32)), Stopped::end);
  EXPECT_EQ(index_->ghosts(), 0U);
}

TEST_F(PrefixIndexTest, AnUnusedNamespaceIsForgotten) {
  make(10, 1);
  for (int i = 0; i < 10; ++i) {
    PrefixTree* tree = index_->enter(salted("tenant " + std::to_string(i)));
    add(*tree, {i + 1});
    index_->leave(*tree);
    EXPECT_NE(evict(), kNoPage);
    EXPECT_EQ(index_->check_invariants(), "");
    EXPECT_EQ(index_->trees(), 2U) << "that of the one ghost, and the open one";
  }
  index_->forget_ghosts();
  EXPECT_EQ(index_->trees(), 1U);
}

TEST_F(PrefixIndexTest, ManyNamespacesComeFromTheBudgetOrAreRefused) {
  make(10, 1);
  int made = 0;
  std::vector<PrefixTree*> trees;
  MemoryBudget small(4096);
  PrefixIndex index(10, 1, small, Reservation{}, *find_eviction_policy("lru").value());
  while (PrefixTree* tree = index.enter(salted("tenant " + std::to_string(made)))) {
    trees.push_back(tree);
    ASSERT_LT(++made, 1000);
  }
  EXPECT_GT(made, 30);
  EXPECT_GT(small.used(MemoryKind::index), 0U);
  for (PrefixTree* tree : trees) index.leave(*tree);
  EXPECT_EQ(small.used(), 0U);
  EXPECT_NE(index.enter(salted("another")), nullptr);
}

TEST_F(PrefixIndexTest, AMatchAmong100000SiblingsThatShareHalfABlockTakesFewComparisons) {
  constexpr std::uint32_t kSiblings = 100'000;
  make(kSiblings, kSiblings);
  const auto sibling = [](std::uint32_t i) {
    return joined(counting(0, 8), {static_cast<TokenId>(i * 7919U % kSiblings), 1, 2, 3, 4, 5, 6, 7});
  };
  for (std::uint32_t i = 0; i < kSiblings; ++i) add(*tree_, sibling(i));
  for (int round = 0; round < 2; ++round) {
    std::uint64_t most = 0;
    for (std::uint32_t i = 0; i < kSiblings; i += 997) {
      const std::uint64_t before = index_->comparisons();
      const Tokens tokens = sibling(i);
      const bool live = round == 0;
      EXPECT_EQ(index_->match(*tree_, tokens).tokens(), live ? 16 : 0);
      EXPECT_EQ(why(joined(counting(0, 8), {tokens[8], 1, 2, 77})), live ? Stopped::diverged : Stopped::evicted);
      EXPECT_EQ(index_->match(*tree_, joined(counting(0, 8), {-1})).tokens(), live ? 8 : 0);
      most = std::max(most, index_->comparisons() - before);
    }
    // A red-black tree of n nodes is at most 2 log2(n + 1) deep; four searches, and the two beside each.
    EXPECT_LE(static_cast<double>(most), 4 * (2 * std::log2(kSiblings + 1.0) + 3));
    for (std::uint32_t i = 0; i < kSiblings && round == 0; ++i) EXPECT_NE(evict(), kNoPage);
  }
}

TEST_F(PrefixIndexTest, WhatFollowedIsFoundFromAnywhereInABlock) {
  make(10, 0);
  IndexNode& first = add(*tree_, counting(0, 16));
  IndexNode& second = add(first, counting(16, 16));
  add(second, counting(32, 5));
  EXPECT_EQ(index_->continuation(*tree_, {}, 3), counting(0, 3));
  EXPECT_EQ(index_->continuation(*tree_, counting(0, 10), 100), counting(10, 27));
  EXPECT_EQ(index_->continuation(*tree_, counting(0, 20), 14), counting(20, 14));
  EXPECT_EQ(index_->continuation(first, counting(16, 19), 9), counting(35, 2));
  EXPECT_EQ(index_->continuation(first, counting(16, 21), 9), Tokens{});
  EXPECT_EQ(index_->continuation(first, Tokens{16, 18}, 9), Tokens{});
  EXPECT_EQ(index_->continuation(*tree_, joined(counting(0, 16), {7}), 9), Tokens{});
  EXPECT_EQ(index_->continuation(*tree_, counting(0, 10), 0), Tokens{});
}

TEST_F(PrefixIndexTest, OfSeveralThatFollowedOneUsedLastIsFoundAndNothingCountsAsUsed) {
  make(10, 0);
  index_->begin_request();
  IndexNode& first = add(*tree_, counting(0, 16));
  IndexNode& old = add(first, {1, 2, 3, 4});
  index_->begin_request();
  add(first, {1, 2, 5});
  EXPECT_EQ(index_->continuation(first, Tokens{1, 2}, 9), Tokens{5});
  index_->begin_request();
  index_->hit(index_->match(*tree_, joined(counting(0, 16), {1, 2, 3})), 19);
  EXPECT_EQ(index_->continuation(first, Tokens{1, 2}, 9), (Tokens{3, 4}));
  const std::uint64_t used = old.last_use;
  const std::uint32_t seen = first.seen;
  EXPECT_EQ(index_->continuation(first, Tokens{1, 2}, 9), (Tokens{3, 4}));
  EXPECT_EQ(old.last_use, used);
  EXPECT_EQ(first.seen, seen);
}

}  // namespace
}  // namespace dalsegno
