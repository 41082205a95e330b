// Particles that grow token by token from one prompt, and now and then are replaced by copies of others. What they take
// is counted: rows of the model, and blocks of K/V.
#include <gtest/gtest.h>

#include <tuple>

#include "particles/program.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno::particles {
namespace {

using testing::open_engine;
using testing::random_tokens;

CacheStats cache_stats(LocalEngine& engine) {
  CacheStats stats;
  engine.scheduler().on_engine_thread([&](KvCache& cache) {
    EXPECT_EQ(cache.check_invariants(), "");
    stats = cache.stats();
  });
  return stats;
}

class Particles : public ::testing::TestWithParam<std::tuple<std::pair<const char*, double>, int>> {
 protected:
  void open(std::uint64_t memory, std::uint64_t max_bytes = 16ULL << 20) {
    engine_ = open_engine({.model = std::get<0>(GetParam()).first, .context = 512, .memory_bytes = memory});
    cache_ = LogprobCache::create(*engine_, {.max_bytes = max_bytes}).value();
  }
  // A model, and draws so sharp that some of its contexts become equal.
  Program program(const std::vector<TokenId>& prompt) {
    return {*cache_, prompt, {.particles = std::get<1>(GetParam()), .sharpness = std::get<0>(GetParam()).second}};
  }

  std::mt19937 random_{4};
  std::unique_ptr<LocalEngine> engine_;
  std::unique_ptr<LogprobCache> cache_;
};

TEST_P(Particles, EachContextIsOneRowOfTheModelAndWhatTheyShareIsKeptOnce) {
  open(1ULL << 30);
  const auto prompt = random_tokens(random_, 70);
  ASSERT_TRUE(cache_->cache_kv(prompt).ok());
  Program particles = program(prompt);
  const Result<void> done = particles.run();
  ASSERT_TRUE(done.ok()) << done.error().message;
  const LogprobStats stats = cache_->stats();
  const auto asked = static_cast<std::uint64_t>(particles.asked());
  EXPECT_GT(particles.resampled(), 5);
  EXPECT_LT(asked, stats.queries);
  EXPECT_EQ(stats.computed, asked) << "no context runs the model twice";
  EXPECT_EQ(stats.tokens_computed, asked) << "each takes one row: its last token's";
  const CacheStats kv = cache_stats(*engine_);
  EXPECT_EQ(kv.evicted.chosen(), 0U);
  EXPECT_EQ(kv.blocks, particles.contexts().blocks());
}

class ParticlesInLittleRoom : public Particles {};

TEST_P(ParticlesInLittleRoom, WhereKvAreEvictedTheyAreComputedAgainButNoAnswerIs) {
  open(1ULL << 30);
  const std::uint64_t loaded = engine_->bytes();
  cache_.reset();
  engine_.reset();
  // Beside the answers, room for the K/V of a particle or two of the larger model.
  const bool slides = std::get<0>(GetParam()).first == std::string("gemma3-swa");
  open(loaded + (slides ? 3584ULL : 3072ULL) * 1024, 2ULL << 20);
  const auto prompt = random_tokens(random_, 70);
  ASSERT_TRUE(cache_->cache_kv(prompt).ok());
  Program particles = program(prompt);
  const Result<void> done = particles.run();
  ASSERT_TRUE(done.ok()) << done.error().message;
  EXPECT_EQ(cache_->stats().computed, static_cast<std::uint64_t>(particles.asked()));
  EXPECT_GT(cache_stats(*engine_).evicted.chosen(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Models, Particles,
                         ::testing::Combine(::testing::Values(std::pair{"llama-gqa", 100.0},
                                                              std::pair{"gemma3-swa", 4.0}),
                                            ::testing::Values(32, 1000)));

INSTANTIATE_TEST_SUITE_P(Models, ParticlesInLittleRoom,
                         ::testing::Combine(::testing::Values(std::pair{"llama-gqa", 100.0},
                                                              std::pair{"gemma3-swa", 4.0}),
                                            ::testing::Values(32, 1000)));

}  // namespace
}  // namespace dalsegno::particles
