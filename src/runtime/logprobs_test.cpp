#include "dalsegno/logprobs.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>

#include "dalsegno/diagnostics.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_engine;
using testing::random_tokens;

constexpr std::uint64_t kRoom = 4ULL << 20;

class Logprobs : public ::testing::Test {
 protected:
  void SetUp() override { make({.max_bytes = kRoom}); }
  void TearDown() override { cache_.reset(); }
  void make(const LogprobOptions& options) {
    cache_.reset();
    auto made = LogprobCache::create(*engine_, options);
    ASSERT_TRUE(made.ok()) << made.error().message;
    cache_ = std::move(made).value();
  }
  LogprobRow ask(const std::vector<TokenId>& tokens) {
    Result<LogprobRow> row = cache_->next_token_logprobs(tokens);
    EXPECT_TRUE(row.ok()) << (row.ok() ? "" : row.error().message);
    return row.ok() ? row.value() : nullptr;
  }
  static bool same_bits(const LogprobRow& a, const LogprobRow& b) {
    return a->size() == b->size() && std::memcmp(a->data(), b->data(), a->size() * sizeof(float)) == 0;
  }
  std::vector<TokenId> tokens(int count) { return random_tokens(random_, count); }

  std::mt19937 random_{11};
  std::unique_ptr<LocalEngine> engine_ = open_engine();
  std::unique_ptr<LogprobCache> cache_;
};

TEST_F(Logprobs, AreThoseOfScore) {
  const auto prompt = tokens(37);
  const auto scored = score(*engine_, prompt, {.at = {36}, .top = 1000, .nll = false});
  ASSERT_TRUE(scored.ok());
  const LogprobRow row = ask(prompt);
  const auto& top = scored.value().positions.front().top;
  ASSERT_EQ(top.size(), row->size());
  for (const auto& [id, logprob] : top) {
    EXPECT_EQ((*row)[static_cast<std::size_t>(id)], static_cast<float>(logprob)) << id;
  }
}

TEST_F(Logprobs, KeptAndComputedAnewHaveTheSameBits) {
  const auto prompt = tokens(50);
  const LogprobRow first = ask(prompt);
  EXPECT_EQ(ask(prompt), first) << "the same row, not a copy";
  EXPECT_EQ(cache_->stats().computed, 1U);
  EXPECT_EQ(cache_->stats().hits, 1U);
  cache_->clear_kv_cache();
  EXPECT_EQ(ask(prompt), first) << "the K/V have nothing to do with it";
  cache_->clear_cache();
  EXPECT_EQ(cache_->stats().rows, 0U);
  EXPECT_EQ(cache_->stats().bytes, 0U);
  const LogprobRow again = ask(prompt);
  EXPECT_NE(again, first);
  EXPECT_TRUE(same_bits(again, first));
  EXPECT_EQ(cache_->stats().computed, 2U);
}

TEST_F(Logprobs, EqualQueriesOfABatchRunOnce) {
  const auto a = tokens(30);
  const auto b = tokens(31);
  const std::vector<std::vector<TokenId>> batch{a, b, a, a, b};
  const auto rows = cache_->next_token_logprobs(batch);
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows.value().size(), 5U);
  EXPECT_EQ(rows.value()[0], rows.value()[2]);
  EXPECT_EQ(rows.value()[1], rows.value()[4]);
  EXPECT_EQ(cache_->stats().queries, 5U);
  EXPECT_EQ(cache_->stats().computed, 2U);
  EXPECT_EQ(cache_->stats().joined + cache_->stats().hits, 3U);
}

// Particles of one prompt draw by the row of their own tokens and are now and then replaced by copies of others.
TEST_F(Logprobs, AResamplingProgramComputesEachContextOnce) {
  const auto prompt = tokens(70);
  ASSERT_TRUE(cache_->cache_kv(prompt).ok());
  std::vector<std::vector<TokenId>> particles(16, prompt);
  std::set<std::vector<TokenId>> contexts;
  for (int step = 0; step < 25; ++step) {
    contexts.insert(particles.begin(), particles.end());
    const auto rows = cache_->next_token_logprobs(particles);
    ASSERT_TRUE(rows.ok());
    for (std::size_t i = 0; i < particles.size(); ++i) {
      const std::vector<float>& row = *rows.value()[i];
      const auto best = static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
      particles[i].push_back(random_() % 3 == 0 ? static_cast<TokenId>(random_() % 264) : best);
    }
    if (step % 5 == 4) {
      for (auto& particle : particles) particle = particles[random_() % particles.size()];
    }
  }
  EXPECT_EQ(cache_->stats().queries, 16U * 25U);
  EXPECT_EQ(cache_->stats().computed, contexts.size());
  EXPECT_LT(contexts.size(), 16U * 25U);
}

TEST_F(Logprobs, AQueryContinuesFromTheLongestCachedBeginning) {
  const auto prompt = tokens(200);
  ASSERT_TRUE(cache_->cache_kv(prompt).ok());
  auto longer = prompt;
  longer.push_back(5);
  EXPECT_EQ(engine_->explain(longer, "").value().reused_tokens, 200);
  const LogprobRow warm = ask(longer);
  cache_->clear_cache();
  EXPECT_EQ(engine_->explain(longer, "").value().reused_tokens, 0);
  EXPECT_TRUE(same_bits(ask(longer), warm));
}

CacheStats kv_stats(LocalEngine& engine) {
  CacheStats stats;
  engine.scheduler().on_engine_thread([&](KvCache& cache) {
    EXPECT_EQ(cache.check_invariants(), "");
    stats = cache.stats();
  });
  return stats;
}

TEST_F(Logprobs, CachedPromptsStayAndShareWhatTheyBeginWith) {
  const auto system = tokens(64);
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 3; ++i) {
    prompts.push_back(system);
    const auto own = tokens(32 + 5 * i);
    prompts.back().insert(prompts.back().end(), own.begin(), own.end());
    ASSERT_TRUE(cache_->cache_kv(prompts.back()).ok());
    ASSERT_TRUE(cache_->cache_kv(prompts.back()).ok()) << "the same one again";
  }
  EXPECT_EQ(kv_stats(*engine_).blocks_pinned, 4U + 3 * 2);
  for (auto prompt : prompts) {
    const int size = static_cast<int>(prompt.size());
    prompt.push_back(1);
    EXPECT_EQ(engine_->explain(prompt, "").value().reused_tokens, size)
        << "what is less than a block is cached as well";
  }
  release_all();
  for (const auto& prompt : prompts) {
    const int whole = static_cast<int>(prompt.size()) / kBlockTokens * kBlockTokens;
    EXPECT_GE(engine_->explain(prompt, "").value().reused_tokens, whole - 1);
  }
  cache_->clear_kv_cache();
  EXPECT_EQ(kv_stats(*engine_).blocks, 0U);
  ASSERT_TRUE(cache_->cache_kv(prompts[0]).ok());
  EXPECT_EQ(kv_stats(*engine_).blocks_pinned, 6U);
  cache_.reset();
  EXPECT_EQ(kv_stats(*engine_).blocks_pinned, 0U) << "they stay as long as the cache";
}

TEST_F(Logprobs, APromptThatCannotStayIsRefusedWithASentence) {
  const std::uint64_t loaded = engine_->bytes();
  cache_.reset();
  engine_.reset();
  engine_ = open_engine({.memory_bytes = loaded + 1400000});  // a token's K/V take 512 bytes
  make({.max_bytes = 100000});
  const auto prompt = tokens(1500);
  const Result<void> refused = cache_->cache_kv(prompt);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_NE(refused.error().message.find("pins may take half"), std::string::npos) << refused.error().message;
  EXPECT_EQ(cache_->next_token_logprobs(prompt).ok(), true) << "queries work all the same";
  EXPECT_EQ(cache_->cache_kv(std::span(prompt).first(160)).ok(), true);
}

TEST_F(Logprobs, AnswersDoNotDependOnWhatIsAskedWithThem) {
  std::vector<std::vector<TokenId>> batch;
  const auto prompt = tokens(90);
  for (int i = 0; i < 24; ++i) {
    batch.emplace_back(prompt.begin(), prompt.begin() + 1 + static_cast<std::ptrdiff_t>(random_() % 89));
    batch.back().push_back(static_cast<TokenId>(random_() % 264));
  }
  const auto together = cache_->next_token_logprobs(batch).value();
  for (std::size_t i = 0; i < batch.size(); ++i) {
    cache_->clear_cache();
    EXPECT_TRUE(same_bits(ask(batch[i]), together[i])) << i;
  }
}

TEST_F(Logprobs, RowsStayWithinTheirBytesAndTheOldestGoFirst) {
  make({.max_bytes = 20000});
  const auto kept = tokens(10);
  ask(kept);
  for (int i = 0; i < 60; ++i) {
    ask(tokens(10));
    ask(kept);
    EXPECT_LE(cache_->stats().bytes, 20000U);
  }
  EXPECT_EQ(cache_->stats().computed, 61U) << "what is used stays";
  EXPECT_GT(cache_->stats().evicted, 30U);
  EXPECT_EQ(cache_->stats().hidden_states + cache_->stats().evicted, 61U);
}

TEST_F(Logprobs, ARowLargerThanTheRoomIsAnsweredButNotKept) {
  make({.max_bytes = 100});
  const auto prompt = tokens(10);
  EXPECT_TRUE(same_bits(ask(prompt), ask(prompt)));
  EXPECT_EQ(cache_->stats().computed, 2U);
  EXPECT_EQ(cache_->stats().rows, 0U);
}

TEST_F(Logprobs, WhatCannotBeAskedIsSaid) {
  EXPECT_EQ(cache_->next_token_logprobs(std::vector<TokenId>{}).error().code, ErrorCode::invalid_argument);
  EXPECT_NE(cache_->next_token_logprobs(std::vector<TokenId>{1, 999999}).error().message.find("999999"),
            std::string::npos);
  const std::vector<std::vector<TokenId>> batch{tokens(5), {}};
  const auto queries = cache_->query(batch);
  EXPECT_TRUE(queries[0].get().ok()) << "the others of a batch are answered";
  EXPECT_TRUE(queries[1].is_ready());
  EXPECT_FALSE(queries[1].get().ok());
  EXPECT_FALSE(LogprobCache::create(*engine_, {.max_bytes = 1ULL << 50}).ok());
}

TEST_F(Logprobs, TenantsShareNothing) {
  make({.salt = "a", .max_bytes = kRoom});
  const auto prompt = tokens(64);
  ask(prompt);
  EXPECT_EQ(engine_->explain(prompt, "b").value().reused_tokens, 0);
  EXPECT_EQ(engine_->explain(prompt, "a").value().reused_tokens, 63);
}

TEST_F(Logprobs, ReleaseAllFreesTheRowsAndLaterOnesAreKeptAgain) {
  const auto prompt = tokens(12);
  const LogprobRow held = ask(prompt);
  EXPECT_EQ(memory_report()->log_probs, kRoom);
  release_all();
  EXPECT_EQ(cache_->stats().rows, 0U);
  EXPECT_EQ(memory_report()->log_probs, 0U);
  const LogprobRow again = ask(prompt);
  EXPECT_TRUE(same_bits(again, held)) << "a row that is held outlives it";
  EXPECT_EQ(memory_report()->log_probs, kRoom);
  EXPECT_EQ(ask(prompt), again);
}

TEST_F(Logprobs, AnAnswerMayOutliveTheCache) {
  const auto query = cache_->query(tokens(300));
  cache_.reset();
  EXPECT_TRUE(query.get().ok());
  EXPECT_EQ(memory_report()->log_probs, 0U);
}

TEST_F(Logprobs, ThreadsThatAskTheSameGetTheSame) {
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 12; ++i) prompts.push_back(tokens(40));
  std::vector<std::vector<LogprobRow>> rows(6, std::vector<LogprobRow>(prompts.size()));
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        const std::size_t at = (i + t) % prompts.size();
        rows[t][at] = cache_->next_token_logprobs(prompts[at]).value();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : rows) EXPECT_EQ(mine, rows.front());
  EXPECT_EQ(cache_->stats().computed, prompts.size());
}

}  // namespace
}  // namespace dalsegno
