#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "cache/cache_test_support.hpp"

// What requests may ask for their blocks: pins, times to live and priorities, within quotas.

namespace dalsegno::cache_test {
namespace {

using std::chrono::seconds;

class RetentionTest : public testing::Test {
 protected:
  struct Making {
    std::uint64_t blocks = 100;
    std::string policy{kDefaultEviction};
    std::map<std::string, std::uint64_t> quotas = {};  // in blocks
    int window = 0;
  };
  void make(const Making& making) {
    next_ = 0;
    KvCacheOptions options{.layout = making.window > 0 ? sliding_layout(making.window) : kLayout,
                           .budget = &budget_,
                           .clock = &clock_,
                           .eviction = making.policy};
    options.max_bytes = making.blocks * options.layout.block_bytes();
    for (const auto& [salt, blocks] : making.quotas) options.quotas[salt] = blocks * options.layout.block_bytes();
    auto cache = KvCache::create(options);
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(cache).value();
  }
  void TearDown() override {
    pins_.clear();
    if (cache_ == nullptr) return;
    EXPECT_EQ(cache_->check_invariants(), "");
  }

  Tokens text(int blocks) {
    Tokens tokens = counting(next_, blocks * kBlockTokens);
    next_ += blocks * kBlockTokens;
    return tokens;
  }
  KvCache::Opened start(const Tokens& tokens, const Retention& retention = {}, const std::string& salt = "a") {
    auto opened = cache_->open(salted(salt), tokens, static_cast<int>(tokens.size()), retention);
    const auto reused = static_cast<std::size_t>(opened.reused);
    EXPECT_TRUE(cache_->extend(opened.table, static_cast<int>(tokens.size() - reused)).ok());
    cache_->commit(opened.table, std::span(tokens).subspan(reused));
    return opened;
  }
  // A request from beginning to end; how much of it was reused, in blocks.
  int ask(const Tokens& tokens, const Retention& retention = {}, const std::string& salt = "a") {
    auto opened = start(tokens, retention, salt);
    cache_->close(std::move(opened.table));
    EXPECT_EQ(cache_->check_invariants(), "");
    return opened.reused / kBlockTokens;
  }
  int held(const Tokens& tokens, const std::string& salt = "a") const {
    return cache_->preview(salted(salt), tokens, static_cast<int>(tokens.size())).reused / kBlockTokens;
  }
  Result<void> pin(const Tokens& tokens, const std::string& salt = "a") {
    auto opened = start(tokens, {}, salt);
    Result<void> pinned = cache_->pin(opened.table);
    if (pinned.ok()) pins_.push_back(std::move(opened.table));
    EXPECT_EQ(cache_->check_invariants(), "");
    return pinned;
  }

  ManualClock clock_;
  MemoryBudget budget_{64 << 20};
  std::unique_ptr<KvCache> cache_;
  std::vector<BlockTable> pins_;
  TokenId next_ = 0;
};

TEST_F(RetentionTest, TheLowestPriorityMakesRoomFirst) {
  for (const std::string policy : {"lru", "value"}) {
    make({.blocks = 40, .policy = policy});
    const Tokens high = text(10);
    const Tokens low = text(10);
    const Tokens middle = text(10);
    ask(high, {.priority = 7});
    ask(low, {.priority = -7});
    ask(middle);
    ask(text(15), {.priority = 100});
    EXPECT_EQ(held(low), 5) << policy;
    EXPECT_EQ(held(middle) + held(high), 20) << policy;
    ask(text(15), {.priority = 100});
    EXPECT_EQ(held(low) + held(middle), 0) << policy;
    EXPECT_EQ(held(high), 10) << policy;
  }
}

TEST_F(RetentionTest, WhatSeveralShareHasTheHighestPriorityOfAll) {
  make({.blocks = 40});
  const Tokens system = text(10);
  ask(joined(system, text(5)), {.priority = 5});
  for (int i = 0; i < 3; ++i) ask(joined(system, text(5)), {.priority = -5});
  for (int i = 0; i < 10; ++i) ask(text(20));
  EXPECT_EQ(held(system), 10);
}

TEST_F(RetentionTest, APriorityAskedForLaterRaisesWhatIsThere) {
  make({.blocks = 40});
  const Tokens kept = text(10);
  ask(kept);
  EXPECT_EQ(ask(kept, {.priority = 1}), 10);
  for (int i = 0; i < 10; ++i) ask(text(30));
  EXPECT_EQ(held(kept), 10);
}

TEST_F(RetentionTest, WhatIsNotUsedForItsTimeToLiveIsEvicted) {
  make({});
  const Tokens brief = text(10);
  const Tokens lasting = text(10);
  ask(brief, {.ttl_seconds = 10});
  ask(lasting);
  clock_.advance(seconds(9));
  EXPECT_EQ(ask(brief, {.ttl_seconds = 10}), 10) << "a use renews it";
  clock_.advance(seconds(9));
  EXPECT_EQ(held(brief), 10);
  clock_.advance(seconds(1));
  const auto gone = cache_->preview(salted("a"), brief, 160);
  EXPECT_EQ(gone.reused, 0);
  EXPECT_EQ(gone.stopped, Stopped::evicted);
  EXPECT_EQ(cache_->stats().evicted.expired, 10U);
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
  EXPECT_EQ(held(lasting), 10);
}

TEST_F(RetentionTest, WhatSeveralShareExpiresWithTheLastOfThem) {
  make({});
  const Tokens system = text(4);
  const Tokens one = joined(system, text(3));
  const Tokens other = joined(system, text(3));
  ask(one, {.ttl_seconds = 10});
  ask(other, {.ttl_seconds = 20});
  clock_.advance(seconds(10));
  EXPECT_EQ(held(one), 4);
  EXPECT_EQ(held(other), 7);
  clock_.advance(seconds(10));
  EXPECT_EQ(held(other), 0);
  ask(one, {.ttl_seconds = 10});
  ask(system);
  clock_.advance(seconds(1000));
  EXPECT_EQ(held(one), 4) << "one of its users gave no time";
}

TEST_F(RetentionTest, NothingExpiresWhileItIsUsed) {
  make({});
  const Tokens tokens = text(10);
  auto running = start(tokens, {.ttl_seconds = 10});
  clock_.advance(seconds(100));
  EXPECT_EQ(held(tokens), 10);
  cache_->close(std::move(running.table));
  clock_.advance(seconds(9));
  EXPECT_EQ(held(tokens), 10);
  clock_.advance(seconds(1));
  EXPECT_EQ(held(tokens), 0);
}

TEST_F(RetentionTest, WhatHasExpiredMakesRoomBeforeAnythingElse) {
  make({.blocks = 30});
  const Tokens old = text(10);
  ask(old);
  ask(text(20), {.priority = 100, .ttl_seconds = 1});
  clock_.advance(seconds(1));
  ask(text(20));
  EXPECT_EQ(held(old), 10);
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
}

TEST_F(RetentionTest, ATenantBeyondItsQuotaMakesRoomForItself) {
  make({.quotas = {{"small", 20}}});
  const Tokens theirs = text(70);
  ask(theirs, {}, "other");
  for (int i = 0; i < 10; ++i) {
    const Tokens own = text(10);
    ask(own, {}, "small");
    EXPECT_EQ(held(own, "small"), 10);
  }
  EXPECT_EQ(held(theirs, "other"), 70);
  EXPECT_EQ(cache_->stats().blocks, 90U);
  EXPECT_EQ(cache_->stats().evicted.quota, 80U);
}

TEST_F(RetentionTest, AScanWithinAQuotaSparesWhatTheTenantComesBackTo) {
  make({.blocks = 200, .quotas = {{"small", 20}}});
  ask(text(150), {}, "other");
  const Tokens hot = text(10);
  ask(hot, {}, "small");
  ask(hot, {}, "small");
  for (int i = 0; i < 20; ++i) ask(text(5), {}, "small");
  EXPECT_EQ(held(hot, "small"), 10);
}

TEST_F(RetentionTest, WhatRunsMayTakeMoreThanTheQuotaAndLeavesNoMoreThanThat) {
  make({.quotas = {{"small", 20}}});
  const Tokens theirs = text(50);
  ask(theirs, {}, "other");
  const Tokens giant = text(50);
  ask(giant, {}, "small");
  EXPECT_EQ(held(giant, "small"), 20);
  EXPECT_EQ(held(theirs, "other"), 50);
}

TEST_F(RetentionTest, APinStaysWhateverNeedsRoom) {
  make({.blocks = 40});
  const Tokens kept = text(10);
  ASSERT_TRUE(pin(kept).ok());
  for (int i = 0; i < 10; ++i) ask(text(30), {.priority = 100});
  cache_->clear();
  clock_.advance(seconds(100000));
  EXPECT_EQ(held(kept), 10);
  EXPECT_EQ(cache_->stats().blocks_pinned, 10U);
  pins_.clear();
  EXPECT_EQ(cache_->stats().blocks_pinned, 0U);
  cache_->clear();
  EXPECT_EQ(held(kept), 0);
}

TEST_F(RetentionTest, WhatSeveralPinsShareCountsOnce) {
  make({.blocks = 40});
  const Tokens system = text(10);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(pin(joined(system, text(2))).ok()) << i;
  EXPECT_EQ(cache_->stats().blocks_pinned, 20U);
  pins_.pop_back();
  EXPECT_EQ(cache_->stats().blocks_pinned, 18U);
}

TEST_F(RetentionTest, PinsLeaveHalfOfTheRoomToWhatRuns) {
  make({.blocks = 40});
  ASSERT_TRUE(pin(text(15)).ok());
  const Tokens more = text(6);
  EXPECT_FALSE(cache_->may_pin(salted("a"), more).ok());
  const auto refused = pin(more);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_NE(refused.error().message.find("pins may take half of the 40 KiB"), std::string::npos)
      << refused.error().message;
  EXPECT_TRUE(cache_->may_pin(salted("a"), text(5)).ok());
  EXPECT_TRUE(pin(text(5)).ok());
}

TEST_F(RetentionTest, PinsCountInsideTheQuota) {
  make({.quotas = {{"small", 20}}});
  const Tokens first = text(15);
  ASSERT_TRUE(pin(first, "small").ok());
  const auto refused = pin(text(6), "small");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("15 KiB are pinned of this tenant's quota of 20 KiB"), std::string::npos)
      << refused.error().message;
  EXPECT_TRUE(pin(text(6), "other").ok());
  EXPECT_TRUE(pin(joined(first, text(5)), "small").ok());
}

TEST_F(RetentionTest, APinEndsWhenItsTableGoesBack) {
  make({});
  const Tokens tokens = text(10);
  ASSERT_TRUE(pin(tokens).ok());
  cache_->rewind(pins_.back(), 5 * kBlockTokens);
  EXPECT_EQ(cache_->stats().blocks_pinned, 0U);
  EXPECT_EQ(cache_->check_invariants(), "");
}

TEST_F(RetentionTest, WithSlidingLayersAPinIsResumedFromItsEnd) {
  make({.blocks = 60, .window = 40});
  const Tokens kept = text(12);
  ASSERT_TRUE(pin(kept).ok());
  for (int i = 0; i < 20; ++i) ask(text(25));
  EXPECT_EQ(held(kept), 12);
}

TEST_F(RetentionTest, WhatIsReusedByNobodyCannotBePinned) {
  make({});
  cache_->quarantine(salted("a"));
  EXPECT_FALSE(pin(text(2)).ok());
}

}  // namespace
}  // namespace dalsegno::cache_test
