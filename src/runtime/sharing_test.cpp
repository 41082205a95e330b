// What runs at the same time computes nothing twice, and nobody else's beginning.
#include <gtest/gtest.h>

#include <random>

#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::open_engine;
using testing::random_tokens;
using testing::Recorder;
using testing::run;

// Gives up once so many prompt tokens are done.
class Quitter final : public Recorder {
 public:
  explicit Quitter(int after) : after_(after) {}
  void on_progress(int done, int) override {
    done_ = done;
    if (done >= after_) cancel();
  }
  [[nodiscard]] int done() const { return done_; }

 private:
  const int after_;
  int done_ = 0;
};

class Sharing : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::mt19937 random(7);
    engine_ = open_engine({.model = GetParam()});
    prompt_ = random_tokens(random, 300);
    for (int i = 0; i < 5; ++i) tails_.push_back(random_tokens(random, 20));
    reference_ = run(*engine_, prompt_, {.from = 280, .reuse = false});
  }
  [[nodiscard]] std::vector<TokenId> with_tail(std::size_t i) const {
    std::vector<TokenId> tokens = prompt_;
    tokens.insert(tokens.end(), tails_[i].begin(), tails_[i].end());
    return tokens;
  }

  std::unique_ptr<LocalEngine> engine_;
  std::vector<TokenId> prompt_;
  std::vector<std::vector<TokenId>> tails_;
  std::shared_ptr<Recorder> reference_;
};

TEST_P(Sharing, RequestsThatBeginAlikeComputeTheBeginningOnce) {
  for (const int chunk : {512, 40}) {
    engine_->reset_cache();
    std::vector<Work> work;
    std::vector<std::shared_ptr<Recorder>> recorders;
    for (std::size_t i = 0; i < tails_.size(); ++i) {
      recorders.push_back(std::make_shared<Recorder>());
      work.push_back({recorders.back(), with_tail(i), 319, chunk, true});
    }
    engine_->scheduler().submit(std::move(work));
    for (std::size_t i = 0; i < recorders.size(); ++i) {
      ASSERT_TRUE(recorders[i]->wait().ok());
      EXPECT_EQ(recorders[i]->admission().reused >= 288, i > 0) << "288 tokens are whole blocks";
      EXPECT_EQ(recorders[i]->logits(), run(*engine_, with_tail(i), {.from = 319, .reuse = false})->logits());
    }
    check_cache(*engine_);
  }
}

TEST_P(Sharing, WhenTheComputingOneIsCancelledAnotherTakesOver) {
  auto first = std::make_shared<Quitter>(120);
  auto second = std::make_shared<Recorder>();
  auto third = std::make_shared<Recorder>();
  std::vector<Work> work;
  work.push_back({first, prompt_, 299, 40, true});
  work.push_back({second, prompt_, 299, 40, true});
  work.push_back({third, prompt_, 299, 40, true});
  engine_->scheduler().submit(std::move(work));
  const auto end = first->wait();
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(*end, FinishReason::cancelled);
  ASSERT_TRUE(second->wait().ok());
  ASSERT_TRUE(third->wait().ok());
  EXPECT_EQ(second->admission().reused, first->done()) << "its last, partial block included";
  EXPECT_GE(third->admission().reused, 288);
  for (const auto& recorder : {second, third}) EXPECT_EQ(recorder->logits().at(299), reference_->logits().at(299));
  check_cache(*engine_);
}

TEST_P(Sharing, TenantsShareNothingAndDoNotWaitForEachOther) {
  std::vector<Work> work;
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (const char* salt : {"a", "b", "a", ""}) {
    recorders.push_back(std::make_shared<Recorder>());
    work.push_back({recorders.back(), prompt_, 299, 512, true, salt});
  }
  engine_->scheduler().submit(std::move(work));
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->wait().ok());
    EXPECT_EQ(recorder->logits().at(299), reference_->logits().at(299));
  }
  EXPECT_EQ(recorders[0]->admission().reused, 0);
  EXPECT_EQ(recorders[1]->admission().reused, 0);
  EXPECT_EQ(recorders[1]->admission().stopped, Stopped::cold);
  EXPECT_GE(recorders[2]->admission().reused, 288);
  EXPECT_EQ(recorders[3]->admission().reused, 0);

  // Nor of what is cached by now.
  auto later = std::make_shared<Recorder>();
  std::vector<Work> alone;
  alone.push_back({later, prompt_, 299, 512, true, "c"});
  engine_->scheduler().submit(std::move(alone));
  ASSERT_TRUE(later->wait().ok());
  EXPECT_EQ(later->admission().reused, 0);
  EXPECT_EQ(later->admission().stopped, Stopped::cold);
}

TEST_P(Sharing, ExplainSaysWhatGenerateWouldReuse) {
  run(*engine_, prompt_, {.from = 299});
  const std::vector<TokenId> tokens = with_tail(0);
  const auto seen = engine_->explain(tokens, "");
  ASSERT_TRUE(seen.ok());
  EXPECT_EQ(seen->prompt_tokens, 320);
  EXPECT_EQ(seen->reuse.at, 300);
  EXPECT_EQ(seen->reuse.stopped, Stopped::cold);
  EXPECT_EQ(engine_->explain(tokens, "tenant")->reused_tokens, 0);
  const auto ran = run(*engine_, tokens, {.from = 319});
  EXPECT_EQ(ran->admission().reused, seen->reused_tokens);
  EXPECT_EQ(ran->admission().at, seen->reuse.at);
  EXPECT_FALSE(engine_->explain({}, "").ok());
}

INSTANTIATE_TEST_SUITE_P(TinyModels, Sharing, ::testing::Values("llama-gqa", "gemma3-swa"),
                         [](const auto& model) { return model.param.substr(0, model.param.find('-')); });

}  // namespace
}  // namespace dalsegno
