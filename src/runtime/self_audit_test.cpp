#include <gtest/gtest.h>

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cache/block_table.hpp"
#include "dalsegno/batch.hpp"
#include "dalsegno/logprobs.hpp"
#include "dalsegno/prompt_cache.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_engine;
using testing::random_tokens;
using testing::run;

// Of the first key of a cached block, or of its last value.
enum class Place : std::uint8_t { first_key, last_value };

void turn_a_bit(LocalEngine& engine, std::uint64_t seed, Place place) {
  engine.scheduler().on_engine_thread([&](KvCache& cache) {
    const auto sample = cache.sample(seed);
    ASSERT_TRUE(sample);
    const auto pages = cache.pages_of(sample->name_space, sample->tokens);
    ASSERT_TRUE(pages);
    const std::size_t at = place == Place::first_key ? 0 : cache.layout().page_bytes() - 1;
    const_cast<std::byte*>((*pages)[0])[at] ^= std::byte{1};
  });
}

class SelfAuditTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Architectures, SelfAuditTest,
                         ::testing::Values("llama-gqa", "qwen2-bias", "qwen3-qknorm", "gemma3-swa", "llama-q4_1"));

TEST_P(SelfAuditTest, SoundBlocksOfEveryFormatAreComputedToTheSameBytes) {
  std::mt19937 random(3);
  for (const KvOptions& kv : {KvOptions{}, KvOptions{.format = KvFormat::f32}, KvOptions{.format = KvFormat::q8},
                              KvOptions{.format = KvFormat::q4}}) {
    auto engine = open_engine({.model = GetParam(), .kv = kv});
    ASSERT_NE(engine, nullptr);
    for (int i = 0; i < 3; ++i) run(*engine, random_tokens(random, 100 + 31 * i), {.chunk = 77});
    const AuditReport report = engine->audit_cache(40);
    EXPECT_EQ(report.mismatched, 0U) << report.last_mismatch;
    EXPECT_GT(report.checked, 10U);
    testing::check_cache(*engine);
  }
}

TEST_P(SelfAuditTest, OneWrongBitPutsTheNamespaceIntoQuarantine) {
  for (const Place place : {Place::first_key, Place::last_value}) {
    std::mt19937 random(4);
    auto engine = open_engine({.model = GetParam()});
    ASSERT_NE(engine, nullptr);
    const std::vector<TokenId> tokens = random_tokens(random, 150);
    const auto sound = run(*engine, tokens);
    turn_a_bit(*engine, 5, place);
    const AuditReport report = engine->audit_cache(200);
    EXPECT_EQ(report.mismatched, 1U) << report.checked << " checked, " << report.skipped << " skipped";
    EXPECT_NE(report.last_mismatch.find("layer"), std::string::npos) << report.last_mismatch;

    engine->scheduler().on_engine_thread([](KvCache& cache) { EXPECT_FALSE(cache.sample(0)); });
    const auto after = engine->explain(tokens, "");
    ASSERT_TRUE(after.ok());
    EXPECT_EQ(after.value().reuse.stopped, Stopped::off);
    const auto again = run(*engine, tokens);
    EXPECT_EQ(again->logits(), sound->logits());
    testing::check_cache(*engine);
  }
}

// What was made from the cache before goes on being held, but nothing is taken from it any more.
TEST(SelfAuditOfDamage, NeitherGivenCachesNorSavedOnesNorLogProbabilitiesSurviveIt) {
  std::mt19937 random(4);
  const auto engine = open_engine();
  const std::vector<TokenId> tokens = random_tokens(random, 150);
  const auto sound = engine->generate(tokens, {.max_tokens = 6, .reuse = false}, {});
  auto made = PromptCache::make(*engine, tokens);
  ASSERT_TRUE(made.ok()) << made.error().message;
  auto logprobs = LogprobCache::create(*engine, {.max_bytes = 4ULL << 20});
  ASSERT_TRUE(logprobs.ok());
  const auto row = (*logprobs)->next_token_logprobs(tokens);
  turn_a_bit(*engine, 5, Place::first_key);
  ASSERT_EQ(engine->audit_cache(200).mismatched, 1U);

  BatchGenerator batch(*engine);
  ASSERT_TRUE(batch.insert({{.prompt = tokens, .options = {.max_tokens = 6}, .cache = *made}}).ok());
  std::vector<TokenId> reply;
  Usage usage;
  for (auto next = batch.next(); !next.empty(); next = batch.next()) {
    if (next.front().token) reply.push_back(*next.front().token);
    usage = next.front().usage;
  }
  EXPECT_EQ(usage.reused_tokens, 0);
  EXPECT_EQ(reply, sound->ids);

  const std::string path = ::testing::TempDir() + "dalsegno_damaged_" + std::to_string(getpid());
  const auto saved = made->save(path);
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, ErrorCode::corrupt);
  EXPECT_NE(saved.error().message.find("damaged"), std::string::npos) << saved.error().message;
  EXPECT_FALSE(std::filesystem::exists(path));

  const std::uint64_t computed = (*logprobs)->stats().computed;
  const auto again = (*logprobs)->next_token_logprobs(tokens);
  EXPECT_EQ((*logprobs)->stats().computed, computed + 1);
  EXPECT_EQ(**again, **row);
}

TEST(SelfAuditWhenIdle, AuditsTheShareAskedForAndThenRests) {
  EngineOptions options;
  options.model_path = testing::tiny_model("llama-gqa");
  options.memory.bytes = 256ULL << 20;
  options.audit_share = 0.5;
  auto engine = LocalEngine::open(options);
  ASSERT_TRUE(engine.ok());
  std::mt19937 random(5);
  run(*engine.value(), random_tokens(random, 10 * kBlockTokens));
  AuditReport report;
  const auto seen = [&] { return report.checked + report.skipped; };
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (seen() < 5 && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    report = engine.value()->audit_cache(0);
  }
  EXPECT_EQ(seen(), 5U);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  report = engine.value()->audit_cache(0);
  EXPECT_EQ(seen(), 5U);
  EXPECT_EQ(report.mismatched, 0U);
}

}  // namespace
}  // namespace dalsegno
