#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "dalsegno/session.hpp"
#include "gguf/gguf_writer.hpp"
#include "runtime/test_engine.hpp"

// Pins, priorities and times to live as callers of an engine meet them.

namespace dalsegno::testing {
namespace {

std::vector<TokenId> some_tokens(int count, unsigned seed = 7) {
  std::mt19937 random(seed);
  return random_tokens(random, count);
}

int cached(Engine& engine, const std::vector<TokenId>& tokens, const std::string& salt = {}) {
  const auto seen = engine.explain(tokens, salt);
  EXPECT_TRUE(seen.ok());
  return seen.ok() ? seen->reused_tokens : -1;
}

Result<Pin> pinned(Engine& engine, const std::vector<TokenId>& tokens) {
  return engine.pin(tokens);
}

TEST(Pinning, ComputesAPrefixAndKeepsItUntilThePinEnds) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt = some_tokens(200);
  auto pin = pinned(*engine, prompt);
  ASSERT_TRUE(pin.ok()) << pin.error().message;
  EXPECT_EQ(pin->tokens(), 192);
  engine->reset_cache();
  EXPECT_EQ(cached(*engine, prompt), 192);
  const auto warm = run(*engine, prompt, {.from = 199});
  EXPECT_EQ(warm->admission().reused, 192);
  EXPECT_EQ(warm->logits(), run(*engine, prompt, {.from = 199, .reuse = false})->logits());
  Pin moved = std::move(*pin);
  EXPECT_EQ(pin->tokens(), 0);
  engine->reset_cache();
  EXPECT_EQ(cached(*engine, prompt), 192);
  moved = Pin();
  engine->reset_cache();
  EXPECT_EQ(cached(*engine, prompt), 0);
  check_cache(*engine);
}

TEST(Pinning, WhatIsCachedAlreadyIsKeptAsItIs) {
  const auto engine = open_engine();
  const std::vector<TokenId> prompt = some_tokens(64);
  run(*engine, prompt);
  std::uint64_t blocks = 0;
  const auto count = [&] {
    engine->scheduler().on_engine_thread([&](KvCache& cache) { blocks = cache.stats().blocks_pinned; });
    return blocks;
  };
  const auto first = pinned(*engine, prompt);
  const auto second = pinned(*engine, prompt);
  EXPECT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(count(), 4U);
}

TEST(Pinning, IsRefusedWithASentence) {
  EngineOptions options;
  options.model_path = tiny_model("llama-gqa");
  options.memory.bytes = 64ULL << 20;
  options.quotas["small"] = 64 << 10;
  const auto opened = Engine::open(options);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  Engine& engine = **opened;
  const auto short_one = engine.pin(some_tokens(15));
  ASSERT_FALSE(short_one.ok());
  EXPECT_EQ(short_one.error().code, ErrorCode::invalid_argument);
  const auto large = engine.pin(some_tokens(1000), "small");
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, ErrorCode::exhausted);
  EXPECT_NE(large.error().message.find("quota of 64"), std::string::npos) << large.error().message;
  EXPECT_EQ(cached(engine, some_tokens(1000), "small"), 0) << "nothing was computed for it";
  EXPECT_TRUE(engine.pin(some_tokens(1000)).ok());
}

TEST(Pinning, ASessionKeepsItsConversation) {
  TestGguf model = tiny_model();
  model.set("llama.context_length", u32(1024));
  model.set("tokenizer.chat_template", text("{% for m in messages %}{{ m.role }}: {{ m.content }}. {% endfor %}"));
  const auto path = std::filesystem::temp_directory_path() / ("dalsegno-pin-" + std::to_string(::getpid()) + ".gguf");
  std::ofstream(path, std::ios::binary) << model.bytes();
  EngineOptions options;
  options.model_path = path.string();
  options.memory.bytes = 64ULL << 20;
  const auto engine = Engine::open(options);
  std::filesystem::remove(path);
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  Session session = Session::create(**engine, {.pin = true}).value();
  const auto first = session.respond("How do you do, and what is it that you do?", {.max_tokens = 20});
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(session.pin_refusal(), "");
  EXPECT_GT(session.pinned_tokens(), 0);
  (*engine)->reset_cache();
  const auto second = session.respond("And now?", {.max_tokens = 10});
  ASSERT_TRUE(second.ok());
  EXPECT_GE(second->usage.reused_tokens, first->usage.prompt_tokens / kBlockTokens * kBlockTokens);
  EXPECT_GE(session.pinned_tokens(), second->usage.reused_tokens);
}

TEST(Retaining, ATenantKeepsNoMoreThanItsQuota) {
  EngineOptions options;
  options.model_path = tiny_model("llama-gqa");
  options.memory.bytes = 64ULL << 20;
  options.quota_bytes = 64 << 10;
  auto opened = LocalEngine::open(options);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  LocalEngine& engine = **opened;
  const GenerateOptions small{.max_tokens = 4, .salt = "a"};
  ASSERT_TRUE(engine.generate(some_tokens(500), small, {}).ok());
  const int kept = cached(engine, some_tokens(500), "a");
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, 400);
  check_cache(engine);
}

TEST(Retaining, WhatIsImpossibleIsASentence) {
  const auto engine = open_engine();
  for (const Retention& retention : {Retention{.priority = 101}, Retention{.ttl_seconds = -1}}) {
    const auto reply = engine->generate(some_tokens(20), {.retention = retention}, {});
    ASSERT_FALSE(reply.ok());
    EXPECT_EQ(reply.error().code, ErrorCode::invalid_argument);
  }
}

}  // namespace
}  // namespace dalsegno::testing
