#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "dalsegno/batch.hpp"
#include "runtime/test_engine.hpp"

// What an engine counts of its cache, request by request.

namespace dalsegno::testing {
namespace {

const ReuseCounts& of(const CacheReport& report, Stopped stopped) {
  return report.by_cause.at(static_cast<std::size_t>(stopped));
}

std::vector<TokenId> some_tokens(int count, unsigned seed = 7) {
  std::mt19937 random(seed);
  return random_tokens(random, count);
}

TEST(Histogram, ABucketCountsFromItsLeastValueToTheNextBuckets) {
  Histogram histogram;
  for (const std::uint64_t value : {0ULL, 1ULL, 2ULL, 3ULL, 4ULL, 1ULL << 31U, 1ULL << 40U}) histogram.add(value);
  EXPECT_EQ(histogram.buckets[0], 1U);
  EXPECT_EQ(histogram.buckets[1], 1U);
  EXPECT_EQ(histogram.buckets[2], 2U);
  EXPECT_EQ(histogram.buckets[3], 1U);
  EXPECT_EQ(histogram.buckets[Histogram::kBuckets - 1], 2U);
  EXPECT_EQ(histogram.count, 7U);
  EXPECT_EQ(Histogram::from(0), 0U);
  EXPECT_EQ(Histogram::from(2), 2U);
  EXPECT_EQ(Histogram::from(3), 4U);
}

TEST(CacheReport, CountsRequestsByWhyTheirReuseEnded) {
  const auto engine = open_engine();
  std::vector<TokenId> prompt = some_tokens(100);
  run(*engine, prompt, {.from = 99});                  // cold
  run(*engine, prompt, {.from = 99});                  // all but the last token
  run(*engine, prompt, {.from = 99, .reuse = false});  // off
  prompt[40] = (prompt[40] + 1) % 264;
  run(*engine, prompt, {.from = 99});  // diverged at 40
  const CacheReport report = engine->cache_report();
  EXPECT_EQ(of(report, Stopped::cold).requests, 1U);
  EXPECT_EQ(of(report, Stopped::cold).missing_tokens, 100U);
  EXPECT_EQ(of(report, Stopped::end).requests, 1U);
  EXPECT_EQ(of(report, Stopped::end).reused_tokens, 99U);
  EXPECT_EQ(of(report, Stopped::off).missing_tokens, 100U);
  EXPECT_EQ(of(report, Stopped::diverged).reused_tokens, 40U);
  EXPECT_EQ(of(report, Stopped::evicted).requests + of(report, Stopped::window).requests, 0U);
  EXPECT_EQ(report.total().requests, 4U);
  EXPECT_EQ(report.total().reused_tokens, 139U);
  EXPECT_EQ(report.reused_tokens.sum, 139U);
  EXPECT_EQ(report.reused_tokens.buckets[0], 2U);
  EXPECT_EQ(report.missing_tokens.sum, 400U - 139U);
  EXPECT_EQ(report.missing_tokens.count, 4U);
}

TEST(CacheReport, CountsBlocksThatWentByWhy) {
  const auto engine = open_engine({.context = 1024, .memory_bytes = 37ULL << 20});
  std::uint64_t blocks = 0;
  engine->scheduler().on_engine_thread([&](KvCache& cache) { blocks = cache.stats().pages_limit; });
  int asked = 0;
  for (; engine->cache_report().evicted.room == 0; ++asked) {
    ASSERT_LT(asked, 20000);
    run(*engine, some_tokens(160, static_cast<unsigned>(asked)), {.from = 159});
  }
  const CacheReport full = engine->cache_report();
  EXPECT_EQ(full.unused_for.count, full.evicted.room);
  EXPECT_GT(full.unused_for.sum, full.evicted.room) << "each had not been used for several requests";
  EXPECT_EQ(full.evicted.quota + full.evicted.limit + full.evicted.expired + full.evicted.cleared, 0U);
  EXPECT_EQ(full.kv_in_use, 0U);
  EXPECT_GT(full.kv_cached, 0U);
  EXPECT_GE(blocks, full.blocks);
  // What was first asked for went first, and the report says so of those who ask again.
  run(*engine, some_tokens(160, 0), {.from = 159});
  EXPECT_EQ(of(engine->cache_report(), Stopped::evicted).requests, 1U);
  const std::uint64_t left = engine->cache_report().blocks;
  engine->reset_cache();
  const CacheReport empty = engine->cache_report();
  EXPECT_EQ(empty.evicted.cleared, left);
  EXPECT_EQ(empty.blocks + empty.kv_cached + empty.kv_in_use, 0U);
}

TEST(CacheReport, TellsWhatIsKeptApartFromWhatMayGo) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt = some_tokens(96);
  const auto pin = engine->pin(prompt, "");
  ASSERT_TRUE(pin.ok()) << pin.error().message;
  const CacheReport report = engine->cache_report();
  EXPECT_EQ(report.kv_pinned, report.kv_in_use);
  EXPECT_GT(report.kv_pinned, 0U);
  EXPECT_EQ(report.kv_cached, 0U);
  const auto memory = memory_report();
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->kv, report.kv_in_use + report.kv_cached + report.kv_free);
}

TEST(CacheReport, CountsThoseThatWaitedAndThoseThatContinuedAGivenCache) {
  const auto engine = open_engine();
  BatchGenerator batch(*engine);
  const std::vector<TokenId> prompt = some_tokens(200);
  std::vector<BatchRequest> alike(3, BatchRequest{.prompt = prompt, .options = {.max_tokens = 2}});
  ASSERT_TRUE(batch.insert(alike).ok());
  PromptCache cache;
  for (auto next = batch.next(); !next.empty(); next = batch.next()) {
    for (BatchResponse& response : next) {
      if (response.cache) cache = *response.cache;
    }
  }
  const CacheReport shared = engine->cache_report();
  EXPECT_EQ(shared.waits, 2U);
  EXPECT_EQ(shared.total().requests, 3U);
  EXPECT_EQ(shared.total().missing_tokens, 200U + 8U + 8U) << "the others compute what is not a whole block";
  EXPECT_EQ(shared.continued, 0U);
  engine->reset_cache();
  ASSERT_TRUE(batch.insert({BatchRequest{.prompt = prompt, .options = {.max_tokens = 2}, .cache = cache}}).ok());
  while (!batch.next().empty()) {
  }
  EXPECT_EQ(engine->cache_report().continued, 1U);
}

}  // namespace
}  // namespace dalsegno::testing
