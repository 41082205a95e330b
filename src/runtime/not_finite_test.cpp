// A model whose numbers overflow at one token: the sequences with that token fail, with a sentence, and leave nothing
// behind; those that run in the same steps have the bits that they have alone.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <random>
#include <string>
#include <vector>

#include "dalsegno/logprobs.hpp"
#include "runtime/overflowing_model.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::random_tokens;
using testing::Recorder;
using testing::run;

using testing::kPoison;
using testing::OverflowingModel;

// The first overflows before the last layer drops the rows without logits, the second after it.
class NotFinite : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const OverflowingModel model(GetParam(), fmt::format("{}overflowing-{}.gguf", ::testing::TempDir(), ::getpid()));
    engine_ = model.open();
    ASSERT_NE(engine_, nullptr);
    std::mt19937 random(9);
    for (const int size : {40, 25, 33}) prompts_.push_back(random_tokens(random, size, kPoison));
    prompts_[1].back() = kPoison;
  }
  std::vector<std::vector<TokenId>> prompts_;
  std::unique_ptr<LocalEngine> engine_;
};
INSTANTIATE_TEST_SUITE_P(Where, NotFinite, ::testing::Values("blk.0.attn_v.weight", "output.weight"));

TEST_P(NotFinite, OnlyItsOwnSequenceFails) {
  std::vector<Work> work;
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (const auto& prompt : prompts_) {
    recorders.push_back(std::make_shared<Recorder>());
    work.push_back({recorders.back(), prompt, static_cast<int>(prompt.size()) - 1});
  }
  engine_->scheduler().submit(std::move(work));
  for (const std::size_t sound : {0U, 2U}) {
    EXPECT_TRUE(recorders[sound]->wait().ok());
    const int last = static_cast<int>(prompts_[sound].size()) - 1;
    EXPECT_EQ(recorders[sound]->logits(), run(*engine_, prompts_[sound], {.from = last, .reuse = false})->logits());
  }
  const auto failed = recorders[1]->wait();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::numeric);
  EXPECT_NE(failed.error().message.find("the model cannot go on with this text"), std::string::npos);
  EXPECT_TRUE(recorders[1]->logits().empty());
  check_cache(*engine_);
}

TEST_P(NotFinite, AFailedSequenceLeavesNothingThatWasNotVisibleBefore) {
  std::vector<Work> work;
  auto recorder = std::make_shared<Recorder>();
  work.push_back({recorder, prompts_[1], 24, 20});
  engine_->scheduler().submit(std::move(work));
  EXPECT_FALSE(recorder->wait().ok());
  const auto seen = engine_->explain(prompts_[1], "");
  ASSERT_TRUE(seen.ok());
  EXPECT_EQ(seen->reused_tokens, 16) << "of the 20 tokens of the first step, the whole block";
}

TEST_P(NotFinite, OnlyItsOwnQueryFailsAndNothingOfItIsKept) {
  const auto cache = LogprobCache::create(*engine_, {.max_bytes = 1 << 20}).value();
  for (std::uint64_t round = 1; round <= 2; ++round) {
    const auto queries = cache->query(prompts_);
    for (const std::size_t sound : {0U, 2U}) EXPECT_TRUE(queries[sound].get().ok());
    ASSERT_FALSE(queries[1].get().ok());
    EXPECT_EQ(queries[1].get().error().code, ErrorCode::numeric);
    EXPECT_EQ(cache->stats().hits, 2 * (round - 1));
    EXPECT_EQ(cache->stats().hidden_states, 2U);
    EXPECT_EQ(cache->stats().computed, 2U);
  }
}

// Guesses the poisonous token, always.
class PoisonousGuess final : public Drafter {
 public:
  Draft draft(const Question& question) override {
    return {.tokens = std::vector<TokenId>(question.most > 0 ? 3 : 0, kPoison)};
  }
};

TEST_P(NotFinite, AWrongGuessThatOverflowsDisturbsNothing) {
  const int last = static_cast<int>(prompts_[0].size()) - 1;
  const auto plain = run(*engine_, prompts_[0], {.from = last, .reuse = false, .steps = 20});
  auto guessed = std::make_shared<Recorder>(20);
  std::vector<Work> work;
  work.push_back(
      {.request = guessed, .tokens = prompts_[0], .first_logit = last, .drafter = std::make_shared<PoisonousGuess>()});
  engine_->scheduler().submit(std::move(work));
  EXPECT_TRUE(guessed->wait().ok());
  EXPECT_EQ(guessed->reply, plain->reply);
  EXPECT_EQ(guessed->logits(), plain->logits());
  check_cache(*engine_);
}

}  // namespace
}  // namespace dalsegno
