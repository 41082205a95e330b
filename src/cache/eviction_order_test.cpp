#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/cache_test_support.hpp"
#include "cache/eviction_policy.hpp"
#include "cache/kv_cache.hpp"
#include "cache/prefix_index.hpp"

namespace dalsegno::cache_test {
namespace {

class EvictionTest : public testing::Test {
 protected:
  void make(std::uint64_t blocks, const std::string& policy) {
    cache_.reset();
    next_ = 0;
    auto cache =
        KvCache::create({.layout = kLayout, .max_bytes = blocks * kPage, .budget = &budget_, .eviction = policy});
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(cache).value();
  }
  void TearDown() override {
    if (cache_ == nullptr) return;
    EXPECT_EQ(cache_->check_invariants(), "");
  }

  Tokens text(int blocks) {
    Tokens tokens = counting(next_, blocks * kBlockTokens);
    next_ += blocks * kBlockTokens;
    return tokens;
  }
  // A request from beginning to end; how much of it was reused, in blocks.
  int ask(const Tokens& tokens) {
    auto opened = cache_->open(keyed("a"), tokens, static_cast<int>(tokens.size()));
    const auto reused = static_cast<std::size_t>(opened.reused);
    EXPECT_TRUE(cache_->extend(opened.table, static_cast<int>(tokens.size() - reused)).ok());
    cache_->commit(opened.table, std::span(tokens).subspan(reused));
    cache_->close(std::move(opened.table));
    return opened.reused / kBlockTokens;
  }
  int held(const Tokens& tokens) const {
    return cache_->preview(keyed("a"), tokens, static_cast<int>(tokens.size())).reused / kBlockTokens;
  }

  MemoryBudget budget_{64 << 20};
  std::unique_ptr<KvCache> cache_;
  TokenId next_ = 0;
};

TEST_F(EvictionTest, TenThousandOneOffPromptsDoNotEvictWhatPeopleComeBackTo) {
  for (const std::string policy : {"lru", "value"}) {
    make(100, policy);
    const Tokens hot = text(40);
    ask(hot);
    EXPECT_EQ(ask(hot), 40);
    for (int i = 0; i < 10'000; ++i) ask(text(30));
    EXPECT_EQ(held(hot), policy == "value" ? 40 : 0);
  }
}

TEST_F(EvictionTest, AGiantEntryTakesWhatItNeedsFromWhatNobodyCameBackTo) {
  make(100, "value");
  const Tokens hot = text(15);
  ask(hot);
  ask(hot);
  for (int i = 0; i < 3; ++i) {
    ask(text(20));
    ask(text(75));
    EXPECT_EQ(held(hot), 15);
  }
  const Tokens all = text(90);
  ask(all);
  const int left = held(hot);
  EXPECT_GE(left, 8) << "all but a share of the ten blocks that it leaves are taken from others";
  ask(text(20));
  EXPECT_LT(held(all), 90) << "it is the first to make room for others";
  EXPECT_EQ(held(hot), left);
}

TEST_F(EvictionTest, ASystemPromptOfManyOutlivesTheirTails) {
  make(60, "value");
  const Tokens system = text(10);
  ask(joined(system, text(5)));
  for (int user = 0; user < 100; ++user) {
    EXPECT_EQ(ask(joined(system, text(5))), 10);
    for (int i = 0; i < 4; ++i) ask(text(20));
  }
}

TEST_F(EvictionTest, WhatHadToBeComputedTwiceCountsAsAskedForTwice) {
  make(40, "value");
  const Tokens again = text(10);
  ask(again);
  for (int i = 0; i < 4; ++i) ask(text(10));
  EXPECT_EQ(ask(again), 0);
  for (int i = 0; i < 10; ++i) ask(text(10));
  EXPECT_EQ(held(again), 10);
}

// A conversation's last block is seldom full when it is evicted, and longer when it is computed again.
TEST_F(EvictionTest, AnEndThatWasEvictedAndGoesOnIsNoStranger) {
  make(40, "value");
  const Tokens talk = text(10);
  const Tokens turn(talk.begin(), talk.end() - 7);
  ask(turn);
  while (held(turn) > 0) ask(text(10));
  ask(talk);
  for (int i = 0; i < 10; ++i) ask(text(10));
  EXPECT_EQ(held(talk), 10);
}

TEST_F(EvictionTest, WhenMoreTakeTurnsThanFitTheMostStay) {
  for (const std::string policy : {"lru", "value"}) {
    make(50, policy);
    std::vector<Tokens> all;
    for (int i = 0; i < 6; ++i) all.push_back(text(10));
    int reused = 0;
    for (int round = 0; round < 12; ++round) {
      for (const Tokens& tokens : all) {
        const int found = ask(tokens);
        if (round >= 8) reused += found;
      }
    }
    // Ten blocks are missing at any time, and each request but that for what went last finds its own.
    if (policy == "value") {
      EXPECT_GE(reused, 4 * 45);
    } else {
      EXPECT_EQ(reused, 0);
    }
  }
}

TEST_F(EvictionTest, WhatWasAskedForOftenLongAgoGoesInTheEnd) {
  make(40, "value");
  const Tokens once = text(20);
  for (int i = 0; i < 20; ++i) ask(once);
  const Tokens now = text(30);
  for (int i = 0; i < 20; ++i) ask(now);
  EXPECT_EQ(held(now), 30);
  EXPECT_LE(held(once), 10);
}

TEST_F(EvictionTest, AnUnknownPolicyIsASentence) {
  const auto cache = KvCache::create({.layout = kLayout, .max_bytes = 10 * kPage, .budget = &budget_, .eviction = "x"});
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(cache.error().message.find("lru, value"), std::string::npos) << cache.error().message;
}

// Of the smallest model's K/V in 4 bits, a block that is there and one that is remembered.
TEST_F(EvictionTest, WhatIsKnownOfABlockTakesLessThanAHundredthOfIt) {
  constexpr KvLayout kSmall{.format = KvFormat::q4, .layers = 30, .kv_heads = 3, .head_dim = 64, .code_group = 64};
  EXPECT_LT(100 * (PrefixIndex::bytes_for(2000, 2000) - PrefixIndex::bytes_for(1000, 1000)),
            1000 * kSmall.block_bytes());
}

}  // namespace
}  // namespace dalsegno::cache_test
