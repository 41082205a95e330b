#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "dalsegno/session.hpp"
#include "gguf/gguf_writer.hpp"
#include "runtime/test_engine.hpp"

// Conversations that are cut back, on a model with a chat template.

namespace dalsegno {
namespace {

constexpr const char* kTemplate =
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}";

class Trim : public ::testing::TestWithParam<KvOptions> {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(::testing::TempDir()) / ("trim-" + std::to_string(::getpid()) + ".gguf");
    testing::TestGguf file = testing::tiny_model({.type = TensorType::f32, .context = 2048});
    file.set("tokenizer.chat_template", testing::text(kTemplate));
    std::ofstream(path_, std::ios::binary) << file.bytes();
    EngineOptions options;
    options.model_path = path_.string();
    options.kv = GetParam();
    options.memory.bytes = 64ULL << 20;
    auto opened = Engine::open(options);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    engine_ = std::move(opened).value();
    session_ = std::make_unique<Session>(*engine_, std::vector<Message>{{"system", "Answer."}});
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::vector<TokenId> ask(const std::string& text, int tokens = 40) {
    const Result<Reply> reply = session_->respond(text, {.max_tokens = tokens, .sampling = {.temperature = 3.0F}});
    EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
    if (!reply.ok()) return {};
    const auto alone =
        engine_->generate(reply->prompt_ids, {.max_tokens = tokens, .sampling = {.temperature = 3.0F}, .reuse = false});
    EXPECT_EQ(alone->ids, reply->ids) << "whatever was cached";
    std::vector<TokenId> all = reply->prompt_ids;
    all.insert(all.end(), reply->ids.begin(), reply->ids.end());
    return all;
  }

  std::filesystem::path path_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Session> session_;
};

TEST_P(Trim, AReplyIsCutAtTheToken) {
  ask("One question");
  const std::vector<TokenId> all = ask("Another question, a little longer");
  ASSERT_FALSE(all.empty());
  const auto left = session_->trim(15);
  ASSERT_TRUE(left.ok());
  EXPECT_LE(left->prompt_tokens, static_cast<int>(all.size()) - 15);
  EXPECT_GE(left->prompt_tokens, static_cast<int>(all.size()) - 18) << "a character has at most four bytes";
  EXPECT_LE(left->reuse.resumed, left->reuse.at);
  EXPECT_EQ(left->reuse.stopped, left->reuse.resumed < left->reuse.at ? Stopped::window : Stopped::end);
  EXPECT_EQ(left->reuse.at, left->prompt_tokens - 1);
  EXPECT_EQ(session_->transcript().size(), 5U);
  const std::vector<TokenId> next = ask("And now?");
  const std::vector<TokenId> kept(all.begin(), all.begin() + left->prompt_tokens);
  ASSERT_GE(next.size(), kept.size());
  EXPECT_TRUE(std::equal(kept.begin(), kept.end(), next.begin())) << "the ids that are left are those of before";
}

TEST_P(Trim, WhatLiesInAQuestionGoesWithIt) {
  const std::vector<TokenId> first = ask("One question");
  const std::vector<TokenId> second = ask("Another question");
  const auto left = session_->trim(static_cast<int>(second.size() - first.size()) - 3);
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(left->prompt_tokens, static_cast<int>(first.size()));
  EXPECT_EQ(session_->transcript().size(), 3U);
  ask("And now?");
}

TEST_P(Trim, AllOfItLeavesWhatCameBeforeTheFirstQuestion) {
  ask("One question");
  const auto left = session_->trim(100'000);
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(left->prompt_tokens, 0);
  ASSERT_EQ(session_->transcript().size(), 1U);
  EXPECT_EQ(session_->transcript()[0].role, "system");
  ask("And now?");
}

TEST_P(Trim, NoTokensAreNothing) {
  const std::vector<TokenId> all = ask("One question");
  const auto left = session_->trim(0);
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(left->prompt_tokens, static_cast<int>(all.size()));
  EXPECT_EQ(session_->transcript().size(), 3U);
  const auto wrong = session_->trim(-1);
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(session_->transcript().size(), 3U);
}

INSTANTIATE_TEST_SUITE_P(Caches, Trim,
                         ::testing::Values(KvOptions{}, KvOptions{.max_size = 40, .keep = 5},
                                           KvOptions{.format = KvFormat::q8, .start = 60}));

}  // namespace
}  // namespace dalsegno
