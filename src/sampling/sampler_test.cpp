#include "sampling/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "sampling/philox.hpp"

namespace dalsegno {
namespace {

const Kernels& any_kernels() {
  return *available_kernels().front();
}

std::vector<float> random_logits(int size, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> logits(static_cast<std::size_t>(size));
  for (float& logit : logits) {
    logit = static_cast<float>(static_cast<double>(generator()) / 4294967296.0 * 16.0 - 8.0);
  }
  return logits;
}

// Chances of the tokens by the definition, in long double.
std::vector<long double> softmax(const std::vector<float>& logits, long double temperature) {
  const float maximum = *std::max_element(logits.begin(), logits.end());
  std::vector<long double> chance;
  long double total = 0;
  for (const float logit : logits) {
    chance.push_back(std::exp((static_cast<long double>(logit) - maximum) / temperature));
    total += chance.back();
  }
  for (auto& value : chance) value /= total;
  return chance;
}

std::vector<int> draw_many(const SamplingOptions& options, const std::vector<float>& logits, int draws) {
  Sampler sampler(options, any_kernels(), static_cast<int>(logits.size()));
  std::vector<int> counts(logits.size());
  for (int position = 0; position < draws; ++position) {
    ++counts[static_cast<std::size_t>(sampler.sample(logits, {}, position))];
  }
  return counts;
}

// Pearson's statistic over the tokens that are expected often enough, per degree of freedom: about 1
// for a right sampler, and reproducible because the seed is fixed.
double misfit(const std::vector<int>& counts, const std::vector<long double>& chance, int draws) {
  double statistic = 0;
  int cells = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto expected = static_cast<double>(chance[i]) * draws;
    if (expected < 5) continue;
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  EXPECT_GT(cells, 2);
  return statistic / (cells - 1);
}

void zero_all_but(std::vector<long double>& chance, const std::vector<std::size_t>& kept) {
  long double total = 0;
  for (const std::size_t i : kept) total += chance[i];
  for (std::size_t i = 0; i < chance.size(); ++i) {
    chance[i] = std::count(kept.begin(), kept.end(), i) != 0 ? chance[i] / total : 0;
  }
}

std::vector<std::size_t> best_first(const std::vector<float>& logits) {
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  return order;
}

TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformDependsOnSeedStreamAndPositionAndStaysBelowOne) {
  EXPECT_NE(uniform(1, 0, 0), uniform(0, 1, 0));
  EXPECT_NE(uniform(0, 0, 1), uniform(0, 0, 0));
  EXPECT_NE(uniform(1ULL << 32, 0, 0), uniform(0, 0, 0));
  EXPECT_NE(uniform(0, 1ULL << 32, 0), uniform(0, 0, 0));
  double sum = 0;
  for (std::uint32_t position = 0; position < 20000; ++position) {
    const double x = uniform(7, 3, position);
    ASSERT_GE(x, 0.0);
    ASSERT_LT(x, 1.0);
    sum += x;
  }
  EXPECT_NEAR(sum / 20000, 0.5, 0.01);
}

TEST(Argmax, TakesTheLowestIdOfTheLargestWhateverTheLength) {
  for (std::size_t size = 1; size <= 200; ++size) {
    for (const std::size_t at : {std::size_t{0}, size / 3, size / 2, size - 1}) {
      std::vector<float> logits(size, -3.0F);
      logits[at] = -1.0F;
      EXPECT_EQ(argmax(logits), static_cast<TokenId>(at)) << size;
      logits[size - 1] = -1.0F;
      EXPECT_EQ(argmax(logits), static_cast<TokenId>(at)) << size;
    }
  }
}

TEST(Argmax, TakesTheLowestIdAmongThousands) {
  constexpr std::size_t kSizes[] = {4095, 4096, 4097, 8192, 8193, 20001};
  for (const std::size_t size : kSizes) {
    for (const std::size_t at : {std::size_t{0}, std::size_t{4094}, size / 2, size - 1}) {
      std::vector<float> logits(size, -3.0F);
      logits[at] = 2.0F;
      EXPECT_EQ(argmax(logits), static_cast<TokenId>(at)) << size;
      logits[size - 1] = 2.0F;
      EXPECT_EQ(argmax(logits), static_cast<TokenId>(at)) << size;
    }
  }
}

TEST(Sampler, TemperatureZeroIsArgmaxWithTiesToTheLowestId) {
  Sampler sampler({}, any_kernels(), 5);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 4, 2, 4, 4}, {}, 0), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-0.0F, 0.0F, -1, -2, 0.0F}, {}, 1), 0);
}

TEST(Sampler, DrawsByTheSoftmaxOfTheLogits) {
  const auto logits = random_logits(40, 1);
  EXPECT_LT(misfit(draw_many({.temperature = 1.0F, .seed = 1}, logits, 40000), softmax(logits, 1.0L), 40000), 2.0);
}

TEST(Sampler, TemperatureFlattensTheDistribution) {
  const auto logits = random_logits(40, 2);
  const auto counts = draw_many({.temperature = 2.5F, .seed = 2}, logits, 40000);
  EXPECT_LT(misfit(counts, softmax(logits, 2.5L), 40000), 2.0);
  EXPECT_GT(misfit(counts, softmax(logits, 2.0L), 40000), 2.0);
}

TEST(Sampler, TopKKeepsTheBestKAndTheirProportions) {
  auto logits = random_logits(60, 3);
  for (float& logit : logits) logit *= 0.25F;
  const auto order = best_first(logits);
  auto chance = softmax(logits, 1.0L);
  zero_all_but(chance, {order.begin(), order.begin() + 7});
  const auto counts = draw_many({.temperature = 1.0F, .top_k = 7, .seed = 3}, logits, 20000);
  for (std::size_t i = 0; i < counts.size(); ++i) EXPECT_EQ(counts[i] != 0, chance[i] != 0) << i;
  EXPECT_LT(misfit(counts, chance, 20000), 2.5);
}

TEST(Sampler, TopKOfEqualLogitsKeepsTheLowestIds) {
  const auto counts = draw_many({.temperature = 1.0F, .top_k = 3, .seed = 4}, std::vector<float>(50, 0.5F), 300);
  for (std::size_t i = 0; i < counts.size(); ++i) EXPECT_EQ(counts[i] != 0, i < 3) << i;
}

TEST(Sampler, TopPKeepsTheShortestBestSetThatReachesItsShare) {
  for (const int size : {20, 500}) {
    auto logits = random_logits(size, 5);
    for (float& logit : logits) logit *= 0.125F;
    const auto order = best_first(logits);
    auto chance = softmax(logits, 1.0L);
    std::vector<std::size_t> kept;
    for (long double reached = 0; reached < 0.3L; reached += chance[kept.back()]) kept.push_back(order[kept.size()]);
    zero_all_but(chance, kept);
    const auto counts = draw_many({.temperature = 1.0F, .top_p = 0.3F, .seed = 5}, logits, 20000);
    for (std::size_t i = 0; i < counts.size(); ++i) EXPECT_EQ(counts[i] != 0, chance[i] != 0) << i;
    EXPECT_LT(misfit(counts, chance, 20000), 2.0);
  }
}

TEST(Sampler, ATinyTopPLeavesOnlyTheBest) {
  const auto logits = random_logits(300, 6);
  const auto counts = draw_many({.temperature = 5.0F, .top_p = 1e-6F, .seed = 6}, logits, 100);
  EXPECT_EQ(counts[static_cast<std::size_t>(argmax(logits))], 100);
}

TEST(Sampler, MinPKeepsWhatIsLikelyEnoughBesideTheBest) {
  const std::vector<float> logits{0.0F, std::log(0.5F), std::log(0.09F), std::log(0.11F), -50.0F};
  const auto counts = draw_many({.temperature = 1.0F, .min_p = 0.1F, .seed = 7}, logits, 4000);
  EXPECT_GT(counts[0], counts[1]);
  EXPECT_GT(counts[1], counts[3]);
  EXPECT_GT(counts[3], 0);
  EXPECT_EQ(counts[2], 0);
  EXPECT_EQ(counts[4], 0);
}

TEST(Sampler, FiltersTogetherKeepTheirOrder) {
  // top_k leaves 0.4, 0.3 and 0.25; of these two reach a share of 0.7; min_p drops neither.
  const std::vector<float> logits{std::log(0.25F), std::log(0.4F), std::log(0.3F), std::log(0.24F), std::log(0.1F)};
  const auto counts =
      draw_many({.temperature = 1.0F, .top_p = 0.7F, .top_k = 3, .min_p = 0.5F, .seed = 8}, logits, 2000);
  EXPECT_EQ(counts[0] + counts[3] + counts[4], 0);
  EXPECT_NEAR(counts[1], 2000.0 * 0.4 / 0.7, 100);
}

TEST(Sampler, ADrawIsAFunctionOfItsKeyAlone) {
  const auto logits = random_logits(1000, 9);
  SamplingOptions options{.temperature = 1.5F, .top_p = 0.95F, .seed = 42, .stream = 1};
  Sampler once(options, any_kernels(), 1000);
  Sampler again(options, any_kernels(), 1000);
  std::vector<TokenId> forward;
  for (int position = 0; position < 50; ++position) forward.push_back(once.sample(logits, {}, position));
  for (int position = 49; position >= 0; --position) {
    EXPECT_EQ(again.sample(logits, {}, position), forward[static_cast<std::size_t>(position)]);
  }
  options.stream = 2;
  Sampler forked(options, any_kernels(), 1000);
  int same = 0;
  for (int position = 0; position < 50; ++position) {
    same += forked.sample(logits, {}, position) == forward[static_cast<std::size_t>(position)] ? 1 : 0;
  }
  EXPECT_LT(same, 25);
}

TEST(Sampler, EveryCpuLevelDrawsTheSame) {
  const auto logits = random_logits(3001, 10);
  std::vector<TokenId> first;
  for (const Kernels* kernels : available_kernels()) {
    Sampler sampler({.temperature = 2.0F, .top_p = 0.9F, .min_p = 0.001F, .seed = 5}, *kernels, 3001);
    std::vector<TokenId> drawn;
    for (int position = 0; position < 100; ++position) drawn.push_back(sampler.sample(logits, {}, position));
    if (first.empty()) first = drawn;
    EXPECT_EQ(drawn, first) << kernels->name;
  }
}

TEST(Sampler, RepeatPenaltyLowersRecentTokensOnceEach) {
  const std::vector<float> logits{4.0F, 3.0F, -1.0F, 2.5F};
  Sampler sampler({.repeat_penalty = 1.5F, .repeat_last = 3}, any_kernels(), 4);
  EXPECT_EQ(sampler.sample(logits, std::vector<TokenId>{0}, 1), 1);           // 4 / 1.5 < 3
  EXPECT_EQ(sampler.sample(logits, std::vector<TokenId>{0, 0, 1}, 3), 0);     // 2.67 against 2 and 2.5
  EXPECT_EQ(sampler.sample(logits, std::vector<TokenId>{0, 2, 2, 2}, 4), 0);  // 0 is no longer looked at
  EXPECT_EQ(sampler.sample(logits, std::vector<TokenId>{}, 0), 0);
  const std::vector<float> negative{-1.0F, -1.2F};
  Sampler small({.repeat_penalty = 1.5F}, any_kernels(), 2);
  EXPECT_EQ(small.sample(negative, std::vector<TokenId>{0}, 1), 1);  // -1.5 < -1.2
}

TEST(Sampler, ExtremeOptionsStillGiveATokenOfTheVocabulary) {
  const float largest = std::numeric_limits<float>::max();
  const std::vector<float> logits{largest, -largest, 0.0F, 1.0F};
  const std::vector<TokenId> history{0, 1, 2, 3, 3, 99, -1};
  for (const float temperature : {1e-45F, 1e-38F, 1e-5F, 1e38F}) {
    for (const float penalty : {1e-30F, 1.0F, 1e30F}) {
      const SamplingOptions options{.temperature = temperature, .repeat_penalty = penalty, .repeat_last = 1 << 30};
      ASSERT_EQ(check(options, 4), "");
      Sampler sampler(options, any_kernels(), 4);
      const TokenId id = sampler.sample(logits, history, 1);
      EXPECT_GE(id, 0);
      EXPECT_LT(id, 4);
    }
  }
}

TEST(SamplingOptions, ImpossibleOnesAreNamedInASentence) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(check({}, 4), "");
  EXPECT_NE(check({.temperature = -1.0F}, 4).find("temperature"), std::string::npos);
  EXPECT_NE(check({.temperature = nan}, 4).find("temperature"), std::string::npos);
  EXPECT_NE(check({.top_p = 0.0F}, 4).find("top_p"), std::string::npos);
  EXPECT_NE(check({.top_p = nan}, 4).find("top_p"), std::string::npos);
  EXPECT_NE(check({.top_k = -1}, 4).find("top_k"), std::string::npos);
  EXPECT_NE(check({.min_p = 1.0F}, 4).find("min_p"), std::string::npos);
  EXPECT_NE(check({.repeat_penalty = 0.0F}, 4).find("repeat_penalty"), std::string::npos);
  EXPECT_NE(check({.typical_p = 0.0F}, 4).find("typical_p"), std::string::npos);
  EXPECT_NE(check({.presence_penalty = nan}, 4).find("presence_penalty"), std::string::npos);
  EXPECT_NE(check({.frequency_penalty = nan}, 4).find("frequency_penalty"), std::string::npos);
  EXPECT_NE(check({.dry_multiplier = -1.0F}, 4).find("dry_multiplier"), std::string::npos);
  EXPECT_NE(check({.dry_base = 0.5F}, 4).find("dry_base"), std::string::npos);
  EXPECT_NE(check({.dry_allowed_length = -1}, 4).find("dry_allowed_length"), std::string::npos);
  EXPECT_NE(check({.dry_last = -1}, 4).find("dry_last"), std::string::npos);
  EXPECT_NE(check({.logit_bias = {{4, 1.0F}}}, 4).find("token 4"), std::string::npos);
  EXPECT_NE(check({.logit_bias = {{3, nan}}}, 4).find("token 3"), std::string::npos);
  EXPECT_NE(check({.repeat_last = -1}, 4).find("repeat_last"), std::string::npos);
}

TEST(LogProbs, AreTheLogarithmOfTheSoftmax) {
  const auto logits = random_logits(700, 11);
  const auto chance = softmax(logits, 1.0L);
  const auto result = log_probs(logits, 700);
  ASSERT_EQ(result.top.size(), 700U);
  for (const auto& [id, logprob] : result.top) {
    EXPECT_NEAR(logprob, static_cast<double>(std::log(chance[static_cast<std::size_t>(id)])), 1e-13);
  }
}

TEST(LogProbs, TopIsBestFirstWithTiesByIdAndNeverLongerThanTheVocabulary) {
  const std::vector<float> logits{1, 5, 3, 5, 1, 3};
  const auto ids = [&](int k) {
    std::vector<TokenId> result;
    for (const auto& entry : log_probs(logits, k).top) result.push_back(entry.first);
    return result;
  };
  EXPECT_EQ(ids(0), (std::vector<TokenId>{}));
  EXPECT_EQ(ids(3), (std::vector<TokenId>{1, 3, 2}));
  EXPECT_EQ(ids(100), (std::vector<TokenId>{1, 3, 2, 5, 0, 4}));
}

TEST(LogProbs, LogitsFarApartNeitherOverflowNorVanish) {
  const auto result = log_probs(std::vector<float>{-3e38F, 3e38F, -1e30F}, 3);
  EXPECT_EQ(result.top[0], (std::pair<TokenId, double>{1, 0.0}));
  EXPECT_TRUE(std::isfinite(result.top[2].second));
}

}  // namespace
}  // namespace dalsegno
