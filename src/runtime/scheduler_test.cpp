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

TEST(Scheduler, AnImpossibleStepTimeIsRefused) {
  EngineOptions options;
  options.model_path = testing::tiny_model("llama-gqa");
  options.step_ms = -1;
  EXPECT_EQ(Engine::open(options).error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace dalsegno
