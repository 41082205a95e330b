#include "runtime/draft_lookup.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "runtime/draft_runs.hpp"
#include "runtime/step_cost.hpp"

namespace dalsegno {
namespace {

using Tokens = std::vector<TokenId>;

// The longest run by trying all of the last places where the last two tokens stood.
std::optional<DraftRuns::Run> naive(const Tokens& tokens) {
  std::optional<DraftRuns::Run> best;
  int tries = DraftRuns::kTries;
  for (std::size_t end = tokens.size() - 1; end >= 2 && tries > 0; --end) {
    std::size_t length = 0;
    while (length < end && length < DraftRuns::kMost && tokens[end - 1 - length] == tokens[tokens.size() - 1 - length])
      ++length;
    if (length < DraftRuns::kLeast) continue;
    --tries;
    if (!best || static_cast<int>(length) > best->length) {
      best = {static_cast<int>(end), static_cast<int>(length)};
    }
  }
  return best;
}

// Few tokens in all, so that no two pairs share a place of the table.
TEST(DraftRuns, FindTheLongestRunThatEndedBefore) {
  std::mt19937 random(1);
  for (const unsigned different : {2U, 3U}) {
    DraftRuns runs;
    Tokens tokens;
    for (int round = 0; round < 600; ++round) {
      for (auto more = 1 + random() % 3; more > 0; --more) tokens.push_back(static_cast<TokenId>(random() % different));
      const auto found = runs.find(tokens);
      const auto expected = naive(tokens);
      ASSERT_EQ(found.has_value(), expected.has_value());
      if (!found) continue;
      EXPECT_EQ(found->end, expected->end);
      EXPECT_EQ(found->length, expected->length);
    }
  }
}

TEST(DraftRuns, NothingRunsInWhatIsNewOrShort) {
  DraftRuns runs;
  Tokens tokens;
  for (TokenId next = 0; next < 2000; ++next) {
    EXPECT_FALSE(runs.find(tokens).has_value()) << next;
    tokens.push_back(next);
  }
}

class DraftLookupTest : public ::testing::Test {
 protected:
  // A step of one reply that takes a second, where a guess takes so much of one.
  Drafter::Draft ask(const Tokens& tokens, double guess_seconds = 0.1, int most = 31) {
    return lookup_.draft({.tokens = tokens, .most = most, .step = {1, 1, guess_seconds}, .cached = [this](int count) {
                            const auto end = cached_.begin() + std::min<std::ptrdiff_t>(count, std::ssize(cached_));
                            return Tokens(cached_.begin(), end);
                          }});
  }
  // What is said, token by token; how many of the guesses were right and how many wrong.
  void say(Tokens& tokens, const Tokens& said) {
    for (const TokenId next : said) {
      const Drafter::Draft draft = ask(tokens);
      if (!draft.tokens.empty()) ++(draft.tokens.front() == next ? right_ : wrong_);
      tokens.push_back(next);
    }
  }

  DraftLookup lookup_;
  Tokens cached_;
  int right_ = 0;
  int wrong_ = 0;
};

Tokens text(std::uint32_t seed, int count) {
  std::mt19937 random(seed);
  Tokens tokens(static_cast<std::size_t>(count));
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 1000);
  return tokens;
}

TEST_F(DraftLookupTest, GuessesWhatIsSaidAgain) {
  Tokens tokens = text(1, 200);
  say(tokens, text(1, 200));
  EXPECT_GE(right_, 195);
  EXPECT_EQ(wrong_, 0);
  // By now it is sure enough of itself to guess many at once.
  EXPECT_GE(ask(tokens).tokens.size(), 15U);
}

TEST_F(DraftLookupTest, WhatGoesRoundIsGuessedBeyondItsEnd) {
  Tokens tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(i % 4);
  for (int i = 40; i < 140; ++i) {
    ask(tokens);
    tokens.push_back(i % 4);
  }
  const Tokens guessed = ask(tokens).tokens;
  ASSERT_GE(guessed.size(), 10U);
  for (std::size_t i = 0; i < guessed.size(); ++i) EXPECT_EQ(guessed[i], (140 + static_cast<TokenId>(i)) % 4);
}

TEST_F(DraftLookupTest, StopsGuessingWhatDoesNotComeTrueAndBeginsAgainWhenItDoes) {
  Tokens tokens = text(1, 20);
  cached_ = {7, 7, 7};
  for (int i = 0; i < 100; ++i) {
    ask(tokens);
    tokens.push_back(2000 + i);
  }
  EXPECT_TRUE(ask(tokens).tokens.empty());
  for (int i = 0; i < 100; ++i) {
    ask(tokens);
    tokens.push_back(7);
  }
  EXPECT_FALSE(ask(tokens).tokens.empty());
}

TEST_F(DraftLookupTest, GuessesNoMoreThanPaysAndThanThereIsRoomFor) {
  Tokens tokens = text(1, 200);
  say(tokens, text(1, 150));
  const std::size_t cheap = ask(tokens, 0.01).tokens.size();
  const std::size_t dear = ask(tokens, 0.3).tokens.size();
  EXPECT_GT(cheap, dear);
  EXPECT_GT(dear, 0U);
  EXPECT_TRUE(ask(tokens, 1.0).tokens.empty());
  EXPECT_EQ(ask(tokens, 0.01, 3).tokens.size(), 3U);
  EXPECT_TRUE(ask(tokens, 0.01, 0).tokens.empty());
  EXPECT_GT(ask(tokens, 0.01).expected, 1.0);
}

TEST_F(DraftLookupTest, GuessesNothingWhileNobodyKnowsWhatAStepTakes) {
  const Tokens tokens = text(1, 20);
  cached_ = {7, 7, 7};
  const auto draft =
      lookup_.draft({.tokens = tokens, .most = 9, .step = {1, 0, 0}, .cached = [this](int) { return cached_; }});
  EXPECT_TRUE(draft.tokens.empty());
}

TEST(StepCost, LearnsWhatAStepAndAGuessTake) {
  StepCost cost;
  EXPECT_EQ(cost.step(1, 0).seconds, 0);
  cost.learn(1, 0, 0.010);
  EXPECT_DOUBLE_EQ(cost.step(1, 0).seconds, 0.010);
  EXPECT_DOUBLE_EQ(cost.step(1, 0.001).guess_seconds, 0.001);
  EXPECT_EQ(cost.step(2, 0).seconds, 0);
  for (int i = 0; i < 50; ++i) cost.learn(1, 5, 0.014);
  EXPECT_NEAR(cost.step(1, 0.001).guess_seconds, 0.0008, 1e-9);
  cost.learn(1, 5, 100);  // something else took the processor
  EXPECT_LT(cost.step(1, 0).guess_seconds, 0.002);
  cost.learn(1, 5, 0.001);
  EXPECT_GT(cost.step(1, 0).guess_seconds, 0);
}

}  // namespace
}  // namespace dalsegno
