#include <gtest/gtest.h>

#include <algorithm>

#include "cache/cache_test_support.hpp"

// Caches whose layers all have a window: what nobody sees any more is given back, and what is kept is still found.

namespace dalsegno::cache_test {
namespace {

constexpr int kRowsOfAStep = 32;

struct Shape {
  int max_size = 0;
  int keep = 0;
  int window = 0;  // all layers slide
  int start = 0;
};

class BoundedCache : public testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    KvLayout plain = kLayout;
    plain.layers = 2;
    plain.format = GetParam().start > 0 ? KvFormat::q8 : KvFormat::bf16;
    plain.start = GetParam().start;
    plain.max_size = GetParam().max_size;
    plain.keep = GetParam().keep;
    layout_ = with_window(plain, GetParam().window, [](int) { return true; });
    make(layout_.pages_for(1 << 20, kRowsOfAStep));
  }
  void make(std::uint64_t pages) {
    cache_.reset();
    const std::uint64_t page = (layout_.page_bytes() + 63) / 64 * 64;
    auto cache = KvCache::create({.layout = layout_,
                                  .max_bytes = pages * page,
                                  .budget = &budget_,
                                  .most_tokens = 20'000,
                                  .extent_bytes = 8 * page});
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(cache).value();
  }
  void TearDown() override { EXPECT_EQ(cache_->check_invariants(), ""); }

  void compute(BlockTable& table, const Tokens& tokens) {
    const int size = static_cast<int>(tokens.size());
    ASSERT_TRUE(cache_->extend(table, size - table.tokens(), std::min(kRowsOfAStep, size - table.tokens())).ok());
    while (table.tokens() < size) {
      const int rows = std::min(kRowsOfAStep, size - table.tokens());
      const auto room = cache_->extend(table, rows);
      ASSERT_TRUE(room.ok()) << room.error().message;
      const Tokens done(tokens.begin(), tokens.begin() + table.tokens() + rows);
      fill(*cache_, table, "a", done);
      ASSERT_EQ(first_wrong(cache_->view(table), "a", done), -1) << done.size();
    }
  }
  KvCache::Opened run(const Tokens& tokens) {
    KvCache::Opened opened = cache_->open(keyed("a"), tokens, static_cast<int>(tokens.size()) - 1);
    EXPECT_EQ(first_wrong(cache_->view(opened.table), "a", std::span(tokens).first(opened.reused)), -1);
    compute(opened.table, tokens);
    cache_->close(std::move(opened.table));
    return opened;
  }

  KvLayout layout_;
  MemoryBudget budget_{1 << 30};
  std::unique_ptr<KvCache> cache_;
};

TEST_P(BoundedCache, ALongSequenceRunsInTheMemoryOfWhatItSees) {
  EXPECT_GE(cache_->most_tokens(kRowsOfAStep), 20'000);
  run(counting(0, 12'000));
  EXPECT_LE(cache_->stats().pages_limit, layout_.pages_for(1 << 20, kRowsOfAStep));
  EXPECT_EQ(cache_->check_invariants(), "");
  // It goes on from its end, and so does its beginning's other continuation from a checkpoint or the start.
  const auto again = run(joined(counting(0, 12'000), counting(50'000, 100)));
  EXPECT_EQ(again.at, 12'000);
  EXPECT_EQ(again.reused, 12'000);
}

TEST_P(BoundedCache, ASequenceHoldsNoMoreThanWhatItSeesAndAStep) {
  make(100'000);
  const Tokens tokens = counting(0, 5000);
  KvCache::Opened opened = cache_->open(keyed("a"), tokens, 4999);
  compute(opened.table, tokens);
  const CacheStats stats = cache_->stats();
  EXPECT_LE(stats.pages_used - stats.pages_evictable, layout_.pages_for(5000, kRowsOfAStep));
  EXPECT_EQ(stats.evicted.chosen(), 0U);
  cache_->discard(std::move(opened.table));
}

TEST_P(BoundedCache, AnEditResumesFromACheckpointAndTheReportSaysSo) {
  make(100'000);
  run(counting(0, 6000));
  Tokens edited = counting(0, 6000);
  edited[3000] = -1;
  const auto opened = run(edited);
  EXPECT_EQ(opened.at, 3000);
  EXPECT_GT(opened.reused, 0);
  EXPECT_LT(opened.reused, 3000);
  EXPECT_EQ(opened.stopped, Stopped::window);
}

TEST_P(BoundedCache, ForksAndRewindsKeepWhatTheySee) {
  make(100'000);
  const Tokens tokens = counting(0, 2005);
  KvCache::Opened opened = cache_->open(keyed("a"), tokens, 2004);
  compute(opened.table, tokens);
  BlockTable copy = cache_->fork(opened.table);
  const Tokens left = joined(tokens, counting(5000, 300));
  const Tokens right = joined(tokens, counting(9000, 300));
  compute(opened.table, left);
  compute(copy, right);
  EXPECT_EQ(first_wrong(cache_->view(copy), "a", right), -1);
  EXPECT_EQ(cache_->check_invariants(), "");
  const int kept = cache_->rewind(copy, 2000);
  EXPECT_LE(kept, 2000);
  const Tokens other = joined(Tokens(tokens.begin(), tokens.begin() + kept), counting(-4000, 100));
  compute(copy, other);
  EXPECT_EQ(first_wrong(cache_->view(copy), "a", other), -1);
  const auto beginning = static_cast<std::size_t>(cache_->rewind(copy, 3));
  EXPECT_EQ(first_wrong(cache_->view(copy), "a", std::span(other).first(beginning)), -1);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BoundedCache,
                         ::testing::Values(Shape{.max_size = 64}, Shape{.max_size = 100, .keep = 20},
                                           Shape{.max_size = 300, .keep = 100}, Shape{.window = 50},
                                           Shape{.max_size = 100, .keep = 40, .start = 64},
                                           Shape{.max_size = 100, .keep = 10, .start = 1008}));

}  // namespace
}  // namespace dalsegno::cache_test
