#include "dalsegno/session.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <stdexcept>
#include <thread>

#include "runtime/generation.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_engine;
using testing::random_tokens;

TEST(StopMatcher, HoldsBackWhatMayBeginAStopText) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.push("one\n"), "one");
  EXPECT_EQ(matcher.push("two E"), "\ntwo ");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("T"), "ENT");
  EXPECT_FALSE(matcher.found());
  EXPECT_EQ(matcher.push("x END y"), "x ");
  EXPECT_TRUE(matcher.found());
  EXPECT_EQ(matcher.push("more") + matcher.finish(), "");
}

TEST(StopMatcher, GivesWhatItHeldAtTheEnd) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.push("a st"), "a ");
  EXPECT_EQ(matcher.finish(), "st");
}

TEST(Generate, RefusesWhatCannotRunWithASentence) {
  const auto engine = open_engine();
  const std::vector<TokenId> outside{1, 2, 264};
  for (const auto& [prompt, options, part] :
       std::vector<std::tuple<std::vector<TokenId>, GenerateOptions, std::string>>{
           {{}, {}, "empty"},
           {outside, {}, "264"},
           {std::vector<TokenId>(3000, 1), {}, "3000 tokens"},
           {{1}, {.max_tokens = 0}, "max_tokens"}}) {
    const auto reply = engine->generate(prompt, options, {});
    ASSERT_FALSE(reply.ok());
    EXPECT_EQ(reply.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(reply.error().message.find(part), std::string::npos) << reply.error().message;
  }
}

TEST(Generate, ARepeatedPromptPrefillsOneToken) {
  const auto engine = open_engine();
  std::mt19937 random(5);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  const auto first = engine->generate(prompt, {.max_tokens = 20}, {});
  const auto second = engine->generate(prompt, {.max_tokens = 20}, {});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->usage.reused_tokens, 0);
  EXPECT_EQ(second->usage.reused_tokens, 99);
  EXPECT_EQ(second->usage.prefilled_tokens, 1);
  EXPECT_EQ(second->reuse.stopped, Stopped::end);
  EXPECT_EQ(first->ids, second->ids);
}

TEST(Generate, APromptOfOneTokenHasNothingToReuse) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt{5};
  const auto reply = engine->generate(prompt, {.max_tokens = 3}, {});
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->usage.reused_tokens, 0);
  EXPECT_EQ(reply->usage.prefilled_tokens, 1);
  EXPECT_EQ(reply->reuse.stopped, Stopped::cold);
}

TEST(Generate, AReplysOwnTokensAreReusedButTheLast) {
  const auto engine = open_engine();
  std::mt19937 random(6);
  std::vector<TokenId> prompt = random_tokens(random, 50);
  const auto first = engine->generate(prompt, {.max_tokens = 30}, {});
  ASSERT_TRUE(first.ok());
  const std::size_t held = prompt.size() + first->ids.size() - 1;
  prompt.insert(prompt.end(), first->ids.begin(), first->ids.end());
  prompt.push_back(7);
  prompt.push_back(8);
  const auto second = engine->generate(prompt, {.max_tokens = 1}, {});
  ASSERT_TRUE(second.ok());
  EXPECT_GE(second->usage.reused_tokens, static_cast<int>(held));
}

TEST(Generate, AnEditedPromptIsReusedUpToTheEditToTheToken) {
  const auto engine = open_engine();
  std::mt19937 random(7);
  const std::vector<TokenId> prompt = random_tokens(random, 120);
  ASSERT_TRUE(engine->generate(prompt, {.max_tokens = 1}, {}).ok());
  for (const int at : {119, 100, 77, 64, 63, 33, 1}) {
    std::vector<TokenId> edited = prompt;
    edited[static_cast<std::size_t>(at)] = (edited[static_cast<std::size_t>(at)] + 1 + at % 7) % 264;
    if (at == 119) edited.push_back(5);
    const auto reply = engine->generate(edited, {.max_tokens = 1}, {});
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(reply->usage.reused_tokens, at);
    EXPECT_EQ(reply->reuse.stopped, Stopped::diverged);
    EXPECT_EQ(reply->reuse.at, at);
  }
}

TEST(Generate, ACancelledReplyKeepsWhatItComputed) {
  const auto engine = open_engine();
  std::mt19937 random(8);
  const std::vector<TokenId> prompt = random_tokens(random, 200);
  GenerateCallbacks callbacks;
  callbacks.on_prefill = [](int done, int) { return done < 96; };
  const auto reply = engine->generate(prompt, {.max_tokens = 2000, .chunk = 32}, callbacks);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->finish_reason, FinishReason::cancelled);
  const auto again = engine->generate(prompt, {.max_tokens = 1}, {});
  ASSERT_TRUE(again.ok());
  EXPECT_GE(again->usage.reused_tokens, 96);
}

TEST(Generate, ACancelledPrefillReportsWhatItComputed) {
  const auto engine = open_engine();
  std::mt19937 random(10);
  GenerateCallbacks callbacks;
  int last = 0;
  callbacks.on_prefill = [&](int done, int) {
    last = done;
    return done < 64;
  };
  const auto reply = engine->generate(random_tokens(random, 1500), {.max_tokens = 5, .chunk = 16}, callbacks);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->finish_reason, FinishReason::cancelled);
  EXPECT_GE(reply->usage.prefilled_tokens, last);
  EXPECT_EQ(reply->usage.prefilled_tokens % 16, 0);
  EXPECT_LT(reply->usage.prefilled_tokens, 1500);
  EXPECT_EQ(reply->ttft_ms, 0);
}

TEST(Generate, AReplyEndsWithTheTextThatACallbackRefused) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt(30, 3);
  for (int round = 0; round < 3; ++round) {
    std::string shown;
    int calls = 0;
    GenerateCallbacks callbacks;
    callbacks.on_text = [&](std::string_view text) {
      std::this_thread::sleep_for(std::chrono::milliseconds(round * 5));
      shown += text;
      return ++calls < 4;
    };
    GenerateOptions options{.max_tokens = 60};
    options.sampling.temperature = 1.0F;
    const auto reply = engine->generate(prompt, options, callbacks);
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(calls, 4);
    EXPECT_EQ(reply->text, shown);
    EXPECT_EQ(reply->finish_reason, FinishReason::cancelled);
    EXPECT_LT(reply->ids.size(), 60U);
  }
}

// Nobody would read on, and what nobody reads waits for ever.
TEST(Generate, WhatACallbackThrowsEndsTheRequestAndComesOut) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt(30, 3);
  GenerateCallbacks callbacks;
  callbacks.on_text = [](std::string_view) -> bool { throw std::runtime_error("enough"); };
  EXPECT_THROW((void)engine->generate(prompt, {.max_tokens = 1900}, callbacks), std::runtime_error);
  callbacks.on_prefill = [](int, int) -> bool { throw std::runtime_error("enough"); };
  EXPECT_THROW((void)engine->generate(prompt, {.max_tokens = 1900}, callbacks), std::runtime_error);
  while (memory_report()->active) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(engine->cache_report().kv_in_use, 0U);
}

TEST(Generate, WithReuseOffNothingIsReadOrKept) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt(64, 9);
  for (int i = 0; i < 2; ++i) {
    const auto reply = engine->generate(prompt, {.max_tokens = 4, .reuse = false}, {});
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(reply->usage.reused_tokens, 0);
    EXPECT_EQ(reply->reuse.stopped, Stopped::off);
  }
  const auto reply = engine->generate(prompt, {.max_tokens = 4}, {});
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->usage.reused_tokens, 0);
  EXPECT_EQ(reply->reuse.stopped, Stopped::cold);
}

TEST(Generate, ManyThreadsGetTheRepliesTheyWouldGetAlone) {
  const auto engine = open_engine();
  std::mt19937 random(9);
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::vector<TokenId>> expected;
  for (int i = 0; i < 8; ++i) {
    prompts.push_back(random_tokens(random, 20 + 10 * i));
    expected.push_back(engine->generate(prompts.back(), {.max_tokens = 30, .reuse = false}, {}).value().ids);
  }
  std::vector<std::thread> threads;
  std::vector<std::vector<TokenId>> got(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    threads.emplace_back([&, i] { got[i] = engine->generate(prompts[i], {.max_tokens = 30}, {}).value().ids; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(got, expected);
}

TEST(Generate, ATemperatureDrawDependsOnSeedAndPositionAlone) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt(10, 3);
  GenerateOptions options{.max_tokens = 40};
  options.sampling.temperature = 1.5F;
  options.sampling.seed = 11;
  const auto first = engine->generate(prompt, options, {});
  const auto second = engine->generate(prompt, options, {});
  options.sampling.seed = 12;
  const auto third = engine->generate(prompt, options, {});
  EXPECT_EQ(first->ids, second->ids);
  EXPECT_NE(first->ids, third->ids);
}

TEST(Generate, ContextEndsAReplyWithLength) {
  const auto engine = open_engine({.context = 64});
  const auto reply = engine->generate(std::vector<TokenId>(60, 4), {.max_tokens = 100}, {});
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->finish_reason, FinishReason::length);
  EXPECT_EQ(reply->ids.size(), 5U);
}

TEST(Engine, AnAuditShareThatIsNoneIsRefused) {
  for (const double share : {1.5, std::numeric_limits<double>::quiet_NaN()}) {
    EngineOptions options;
    options.model_path = testing::tiny_model("llama-gqa");
    options.audit_share = share;
    const auto engine = Engine::open(options);
    ASSERT_FALSE(engine.ok());
    EXPECT_NE(engine.error().message.find("audit share"), std::string::npos) << engine.error().message;
  }
}

TEST(Engine, ABudgetThatCannotHoldTheModelIsRefused) {
  EngineOptions options;
  options.model_path = testing::tiny_model("llama-gqa");
  options.memory.bytes = 1 << 20;
  const auto engine = Engine::open(options);
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.error().code, ErrorCode::exhausted);
  EXPECT_NE(engine.error().message.find("--memory"), std::string::npos) << engine.error().message;
}

}  // namespace
}  // namespace dalsegno
