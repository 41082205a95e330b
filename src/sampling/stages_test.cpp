// Each option against its definition, written once more in float64 and by the book.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

constexpr int kVocabulary = 300;
constexpr double kNever = -1e30;  // what a reference gives a forbidden token

struct Case {
  std::vector<float> logits;
  std::vector<TokenId> history;
  std::size_t reply_begin = 0;
};

// Histories of few different, likely tokens, so that runs and repetitions are common; token 0 breaks runs.
Case random_case(std::mt19937& random) {
  Case x;
  for (int i = 0; i < kVocabulary; ++i)
    x.logits.push_back(static_cast<float>(random() % 10007) / 1000.0F - (i < 10 ? 0.0F : 5.0F));
  const auto length = random() % 60;
  const auto kinds = 2 + random() % 6;
  for (unsigned i = 0; i < length; ++i) x.history.push_back(static_cast<TokenId>(random() % kinds));
  x.reply_begin = random() % (length + 1);
  return x;
}

using Logits = std::vector<double>;
using Chances = std::map<TokenId, double>;

Chances softmax(const Logits& logits, double temperature) {
  const double top = *std::max_element(logits.begin(), logits.end());
  Chances chances;
  double total = 0;
  for (const double logit : logits) total += std::exp((logit - top) / temperature);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double chance = std::exp((logits[i] - top) / temperature) / total;
    if (chance > 0) chances[static_cast<TokenId>(i)] = chance;
  }
  return chances;
}

std::vector<std::pair<TokenId, double>> ranked(const Chances& chances, const std::function<double(double)>& key) {
  std::vector<std::pair<TokenId, double>> order(chances.begin(), chances.end());
  std::stable_sort(order.begin(), order.end(),
                   [&](const auto& a, const auto& b) { return key(a.second) < key(b.second); });
  return order;
}

Chances normalised(const std::vector<std::pair<TokenId, double>>& kept) {
  double total = 0;
  for (const auto& entry : kept) total += entry.second;
  Chances chances;
  for (const auto& [id, chance] : kept) chances[id] = chance / total;
  return chances;
}

Chances shortest(const std::vector<std::pair<TokenId, double>>& order, double share) {
  std::vector<std::pair<TokenId, double>> kept;
  for (double reached = 0; reached < share && kept.size() < order.size(); reached += kept.back().second) {
    kept.push_back(order[kept.size()]);
  }
  return normalised(kept);
}

// The token's run by comparing the history with itself from every place.
int run_before(const std::vector<TokenId>& history, std::size_t place) {
  int run = 0;
  for (std::size_t n = 1; n <= place; ++n) {
    const TokenId a = history[history.size() - n];
    if (a == 0 || a != history[place - n]) break;
    ++run;
  }
  return run;
}

void by_the_book(const SamplingOptions& options, const Case& x, Logits& logits) {
  for (const auto& [id, bias] : options.logit_bias) {
    logits[static_cast<std::size_t>(id)] = std::isinf(bias) ? kNever : logits[static_cast<std::size_t>(id)] + bias;
  }
  const auto counted = [](auto begin, auto end) {
    std::map<TokenId, int> counts;
    for (; begin != end; ++begin) ++counts[*begin];
    return counts;
  };
  const auto recent = std::min(x.history.size(), static_cast<std::size_t>(options.repeat_last));
  for (const auto& [id, count] : counted(x.history.end() - static_cast<std::ptrdiff_t>(recent), x.history.end())) {
    double& logit = logits[static_cast<std::size_t>(id)];
    logit = logit > 0 ? logit / static_cast<double>(options.repeat_penalty)
                      : logit * static_cast<double>(options.repeat_penalty);
  }
  const auto reply = x.history.begin() + static_cast<std::ptrdiff_t>(x.reply_begin);
  for (const auto& [id, count] : counted(reply, x.history.end())) {
    logits[static_cast<std::size_t>(id)] -=
        static_cast<double>(options.presence_penalty) + static_cast<double>(options.frequency_penalty) * count;
  }
  if (options.dry_multiplier == 0) return;
  std::map<TokenId, int> longest;
  for (std::size_t place = 1; place < x.history.size(); ++place) {
    const int run = run_before(x.history, place);
    const TokenId next = x.history[place];
    if (next != 0 && run > 0 && run >= options.dry_allowed_length) longest[next] = std::max(longest[next], run);
  }
  for (const auto& [id, run] : longest) {
    logits[static_cast<std::size_t>(id)] -=
        static_cast<double>(options.dry_multiplier) *
        std::pow(static_cast<double>(options.dry_base), run - options.dry_allowed_length);
  }
}

Chances by_the_book(const SamplingOptions& options, const Case& x) {
  Logits logits(x.logits.begin(), x.logits.end());
  by_the_book(options, x, logits);
  Chances chances = softmax(logits, static_cast<double>(options.temperature));
  const auto likeliest = [](double chance) { return -chance; };
  if (options.top_k > 0) {
    auto order = ranked(chances, likeliest);
    order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
    chances = normalised(order);
  }
  if (options.typical_p < 1) {
    double entropy = 0;
    for (const auto& entry : chances) entropy -= entry.second * std::log(entry.second);
    const auto order = ranked(chances, [&](double chance) { return std::abs(-std::log(chance) - entropy); });
    chances = shortest(order, static_cast<double>(options.typical_p));
  }
  if (options.top_p < 1) chances = shortest(ranked(chances, likeliest), static_cast<double>(options.top_p));
  if (options.min_p > 0) {
    auto order = ranked(chances, likeliest);
    const double least = static_cast<double>(options.min_p) * order.front().second;
    std::erase_if(order, [&](const auto& entry) { return entry.second < least; });
    chances = normalised(order);
  }
  return chances;
}

struct Row {
  const char* name;
  SamplingOptions options;
};

class Stages : public testing::TestWithParam<Row> {};

// The sets kept may differ where a token stands on the edge within rounding; its weight is then all that differs.
TEST_P(Stages, DoWhatTheirDefinitionsSay) {
  std::mt19937 random(7);
  int moved = 0;
  for (int round = 0; round < 200; ++round) {
    const Case x = random_case(random);
    Sampler sampler(GetParam().options, *available_kernels().front(), kVocabulary, [](TokenId id) { return id == 0; });
    const auto got = sampler.distribution(x.logits, x.history, x.reply_begin);
    const Chances wanted = by_the_book(GetParam().options, x);
    double difference = 0;
    double sum = 0;
    Chances seen;
    for (const auto& [id, chance] : got) {
      EXPECT_TRUE(seen.emplace(id, chance).second) << "token " << id << " twice";
      const auto found = wanted.find(id);
      difference += std::abs(chance - (found == wanted.end() ? 0 : found->second));
      sum += chance;
    }
    for (const auto& [id, chance] : wanted) difference += seen.contains(id) ? 0 : chance;
    EXPECT_LT(difference, 2e-5) << "round " << round;
    EXPECT_NEAR(sum, 1.0, 1e-9);
    const Chances plain = by_the_book({.temperature = GetParam().options.temperature}, x);
    for (const auto& [id, chance] : plain)
      moved += std::abs(chance - (seen.contains(id) ? seen[id] : 0)) > 1e-3 ? 1 : 0;
  }
  if (std::string(GetParam().name) != "temperature") {
    EXPECT_GT(moved, 100) << "the option changed nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(
    EachOption, Stages,
    testing::Values(
        Row{"temperature", {.temperature = 0.7F}},
        Row{"logit_bias",
            {.temperature = 1.0F, .logit_bias = {{3, 4.0F}, {5, -2.5F}, {7, -std::numeric_limits<float>::infinity()}}}},
        Row{"repeat_penalty", {.temperature = 1.0F, .repeat_penalty = 1.7F, .repeat_last = 20}},
        Row{"presence_penalty", {.temperature = 1.0F, .presence_penalty = 3.0F}},
        Row{"frequency_penalty", {.temperature = 1.0F, .frequency_penalty = -0.4F}},
        Row{"dry", {.temperature = 1.0F, .dry_multiplier = 0.8F, .dry_base = 1.5F, .dry_allowed_length = 2}},
        Row{"dry_from_one", {.temperature = 1.0F, .dry_multiplier = 0.5F, .dry_base = 1.2F, .dry_allowed_length = 0}},
        Row{"top_k", {.temperature = 1.3F, .top_k = 9}}, Row{"typical_p", {.temperature = 1.1F, .typical_p = 0.6F}},
        Row{"top_p", {.temperature = 1.2F, .top_p = 0.8F}}, Row{"min_p", {.temperature = 2.0F, .min_p = 0.3F}},
        Row{"all",
            {.temperature = 1.5F,
             .top_p = 0.9F,
             .top_k = 100,
             .min_p = 0.05F,
             .typical_p = 0.8F,
             .repeat_penalty = 1.2F,
             .presence_penalty = 0.5F,
             .frequency_penalty = 0.1F,
             .dry_multiplier = 0.3F,
             .logit_bias = {{11, 3.0F}}}}),
    [](const auto& row) { return row.param.name; });

TEST(Dry, LooksNoFurtherBackThanItMay) {
  // 1 2 3 then 1 2: a long look lowers 3, a short one does not see it.
  const std::vector<float> logits{0, 0, 0, 2, 1};
  const std::vector<TokenId> history{1, 2, 3, 4, 1, 2};
  const auto best = [&](int last) {
    Sampler sampler({.dry_multiplier = 5.0F, .dry_last = last}, *available_kernels().front(), 5);
    return sampler.sample(logits, history, 6);
  };
  EXPECT_EQ(best(100), 4);
  EXPECT_EQ(best(6), 4);
  EXPECT_EQ(best(3), 3);
  EXPECT_EQ(best(0), 3);
}

TEST(Dry, AnEndlessRunLowersWithoutOverflow) {
  const std::vector<TokenId> history(5000, 1);
  Sampler sampler({.temperature = 1.0F, .dry_multiplier = 1.0F, .dry_base = 100.0F}, *available_kernels().front(), 3);
  for (const auto& [id, chance] : sampler.distribution(std::vector<float>{0, 9, 0}, history)) {
    EXPECT_NE(id, 1);
    EXPECT_NEAR(chance, 0.5, 1e-6);
  }
}

TEST(Penalties, LeaveNothingBehindForTheNextToken) {
  std::mt19937 random(3);
  const SamplingOptions options{
      .temperature = 1.0F, .repeat_penalty = 1.3F, .frequency_penalty = 0.5F, .dry_multiplier = 1.0F};
  Sampler kept(options, *available_kernels().front(), kVocabulary);
  for (int round = 0; round < 50; ++round) {
    const Case x = random_case(random);
    Sampler fresh(options, *available_kernels().front(), kVocabulary);
    EXPECT_EQ(kept.distribution(x.logits, x.history, x.reply_begin),
              fresh.distribution(x.logits, x.history, x.reply_begin));
  }
}

TEST(LogitBias, ForbidsForGreedyChoicesToo) {
  Sampler sampler({.logit_bias = {{2, -std::numeric_limits<float>::infinity()}, {0, 1.0F}}},
                  *available_kernels().front(), 4);
  EXPECT_EQ(sampler.sample(std::vector<float>{1.0F, 1.5F, 9.0F, 0.0F}, {}, 0), 0);
}

TEST(LogitBias, WhereEveryTokenIsForbiddenThereIsNone) {
  constexpr float kForbid = -std::numeric_limits<float>::infinity();
  const std::vector<float> logits{1.0F, 1.5F, 9.0F};
  const std::vector<float> third_forbidden{1.0F, 1.5F, std::numeric_limits<float>::lowest()};
  for (const float temperature : {0.0F, 0.8F}) {
    const SamplingOptions two{.temperature = temperature, .logit_bias = {{0, kForbid}, {1, kForbid}}};
    SamplingOptions all = two;
    all.logit_bias.emplace_back(2, kForbid);
    Sampler some(two, *available_kernels().front(), 3);
    Sampler none(all, *available_kernels().front(), 3);
    EXPECT_EQ(some.sample(logits, {}, 0), 2);
    EXPECT_EQ(some.sample(third_forbidden, {}, 0), kNoToken);
    EXPECT_EQ(none.sample(logits, {}, 0), kNoToken);
    EXPECT_TRUE(none.distribution(logits, {}).empty());
  }
}

}  // namespace
}  // namespace dalsegno
