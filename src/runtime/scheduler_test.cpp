// How the scheduler shares steps between requests.
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_engine;
using testing::random_tokens;
using testing::Recorder;
using testing::run;

// Goes on until told to end; counts its tokens.
class Endless final : public Recorder {
 public:
  Endless() : Recorder(1 << 20) {}
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    ++tokens_;
    return Recorder::on_logits(position, logits, tokens);
  }
  [[nodiscard]] int tokens() const { return tokens_; }

 private:
  std::atomic<int> tokens_{0};
};

// Notes how many tokens a reply got while this prompt was computed.
class Prompt final : public Recorder {
 public:
  explicit Prompt(const Endless& beside) : beside_(beside) {}
  void on_admitted(const Admission& admission) override {
    Recorder::on_admitted(admission);
    before_ = beside_.tokens();
  }
  void on_progress(int done, int total) override {
    if (done == total) meanwhile_ = beside_.tokens() - before_;
  }
  [[nodiscard]] int meanwhile() const { return meanwhile_; }

 private:
  const Endless& beside_;
  int before_ = 0;
  int meanwhile_ = 0;
};

// How many tokens a reply gets while a prompt of 640 tokens is computed, which has the bits it has alone.
int tokens_meanwhile(double step_ms) {
  const auto engine = open_engine({.step_ms = step_ms});
  std::mt19937 random(3);
  const auto prompt = random_tokens(random, 640);
  const auto alone = run(*engine, prompt, {.from = 639, .reuse = false});
  const auto reply = std::make_shared<Endless>();
  const auto other = std::make_shared<Prompt>(*reply);
  engine->scheduler().submit({{reply, random_tokens(random, 5), 4, 512, true}});
  while (reply->tokens() == 0) std::this_thread::yield();
  engine->scheduler().submit({{other, prompt, 639, 512, true}});
  EXPECT_TRUE(other->wait().ok());
  reply->cancel();
  EXPECT_TRUE(reply->wait().ok());
  EXPECT_EQ(other->logits(), alone->logits());
  return other->meanwhile();
}

TEST(Scheduler, ALongPromptHoldsRepliesUpNoLongerThanAStepMayTake) {
  // At no time to spare a block goes into each step but the first.
  EXPECT_GE(tokens_meanwhile(0), (640 - 64) / 16);
}

TEST(Scheduler, WithTimeToSpareAPromptTakesFewSteps) {
  EXPECT_LE(tokens_meanwhile(1e9), 5);
}

// What a step takes of a prompt, and how many tokens each of the replies got in it.
class Watched final : public Recorder {
 public:
  explicit Watched(const std::vector<std::shared_ptr<Endless>>& replies) : replies_(replies), seen_(replies.size()) {}
  void on_admitted(const Admission& admission) override {
    Recorder::on_admitted(admission);
    for (std::size_t i = 0; i < replies_.size(); ++i) seen_[i] = replies_[i]->tokens();
  }
  void on_progress(int done, int) override {
    chunks.push_back(done - done_);
    done_ = done;
    for (std::size_t i = 0; i < replies_.size(); ++i) {
      const int now = replies_[i]->tokens();
      EXPECT_EQ(now - seen_[i], 1) << "reply " << i << " in the step of prompt token " << done;
      seen_[i] = now;
    }
  }
  std::vector<int> chunks;

 private:
  const std::vector<std::shared_ptr<Endless>>& replies_;
  std::vector<int> seen_;
  int done_ = 0;
};

TEST(Scheduler, EveryStepOfALongPromptCarriesATokenOfEachReplyAndNoMoreOfThePromptThanAllowed) {
  constexpr int kPrompt = 1500;
  const auto engine = open_engine({.step_ms = 0});
  std::mt19937 random(4);
  std::vector<std::shared_ptr<Endless>> replies;
  for (int i = 0; i < 8; ++i) {
    replies.push_back(std::make_shared<Endless>());
    std::vector<Work> work;
    work.push_back({replies.back(), random_tokens(random, 5 + i), 4 + i, 512, true});
    engine->scheduler().submit(std::move(work));
  }
  for (const auto& reply : replies) {
    while (reply->tokens() == 0) std::this_thread::yield();
  }
  const auto prompt = std::make_shared<Watched>(replies);
  std::vector<Work> work;
  work.push_back({prompt, random_tokens(random, kPrompt), kPrompt - 1, 512, true});
  engine->scheduler().submit(std::move(work));
  EXPECT_TRUE(prompt->wait().ok());
  for (const auto& reply : replies) reply->cancel();
  for (const auto& reply : replies) EXPECT_TRUE(reply->wait().ok());
  ASSERT_GE(prompt->chunks.size(), 2U);
  EXPECT_LE(prompt->chunks.front(), 64) << "to learn what one takes";
  for (std::size_t i = 1; i < prompt->chunks.size(); ++i) EXPECT_LE(prompt->chunks[i], 16) << i;
}

TEST(Scheduler, AnImpossibleStepTimeIsRefused) {
  EngineOptions options;
  options.model_path = testing::tiny_model("llama-gqa");
  options.step_ms = -1;
  EXPECT_EQ(Engine::open(options).error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace dalsegno
