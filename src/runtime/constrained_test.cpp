// Replies that must have a form: what they say, that forced tokens and the cache change nothing, how they end.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <regex>
#include <thread>

#include "dalsegno/batch.hpp"
#include "dalsegno/memory.hpp"
#include "dalsegno/session.hpp"
#include "runtime/process_memory.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using ::testing::HasSubstr;
using testing::open_engine;
using testing::random_tokens;

constexpr const char* kSchema =
    R"({"type":"object","properties":{"name":{"type":"string","pattern":"^[a-z]{1,6}$"},"count":{"type":"integer",
        "minimum":0,"maximum":99},"tags":{"type":"array","items":{"enum":["red","green"]},"maxItems":2}},
        "required":["name","count","tags"],"additionalProperties":false,"x-guidance":{"whitespace_flexible":false}})";
constexpr const char* kSchemaRegex =
    R"re(\{"name":"[a-z]{1,6}","count":[0-9]{1,2},"tags":\[("(red|green)"(,"(red|green)")?)?\]\})re";

// A constraint and a regular expression that says the same.
struct Form {
  Constraint constraint;
  std::string regex;
};

std::vector<Form> forms() {
  return {{Constraint::json_schema(kSchema), kSchemaRegex},
          {Constraint::regex("[a-c]{3}-[0-9]{2,4}(abcdefgh){2}(x|yy)"), "[a-c]{3}-[0-9]{2,4}(abcdefgh){2}(x|yy)"},
          {Constraint::one_of({"yes", "no", "maybe so"}), "yes|no|maybe so"},
          {Constraint::lark("start: \"<\" item (\",\" item)* \">\"\nitem: /[a-f]/ | \"the end\"\n"),
           "<([a-f]|the end)(,([a-f]|the end))*>"}};
}

GenerateOptions constrained(Constraint constraint, float temperature = 0, std::uint64_t seed = 0) {
  GenerateOptions options;
  options.max_tokens = 200;
  options.sampling.temperature = temperature;
  options.sampling.seed = seed;
  options.constraint = std::move(constraint);
  return options;
}

Reply generate(Engine& engine, const std::vector<TokenId>& prompt, const GenerateOptions& options) {
  auto reply = engine.generate(prompt, options);
  EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
  return reply.ok() ? std::move(reply).value() : Reply{};
}

// Bits of all logits that follow `tokens`, from `from` on.
std::map<int, std::vector<std::uint32_t>> bits(LocalEngine& engine, const std::vector<TokenId>& tokens, int from,
                                               bool reuse) {
  return testing::run(engine, tokens, {.from = from, .reuse = reuse})->logits();
}

TEST(Constrained, RepliesHaveTheirForm) {
  const auto engine = open_engine();
  std::mt19937 random(1);
  for (const Form& form : forms()) {
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      const float temperature = seed == 0 ? 0.0F : seed == 5 ? 1e30F : 1.0F;
      const Reply reply = generate(*engine, random_tokens(random, 20), constrained(form.constraint, temperature, seed));
      if (reply.finish_reason == FinishReason::length) continue;
      EXPECT_EQ(reply.finish_reason, FinishReason::stop);
      EXPECT_TRUE(std::regex_match(reply.text, std::regex(form.regex))) << reply.text;
    }
  }
  check_cache(*engine);
}

// A processor that changes nothing sees every token's logits, so nothing is taken without them.
TEST(Constrained, ForcedTokensAreThoseThatWouldHaveBeenDrawn) {
  const auto engine = open_engine();
  std::mt19937 random(2);
  for (const Form& form : forms()) {
    for (std::uint64_t seed = 0; seed < 6; ++seed) {
      const auto prompt = random_tokens(random, 30);
      GenerateOptions options = constrained(form.constraint, seed == 0 ? 0.0F : 1.3F, seed);
      options.logprobs = true;
      options.sampling.frequency_penalty = 0.2F;
      options.sampling.dry_multiplier = 0.5F;
      const Reply forced = generate(*engine, prompt, options);
      int seen = 0;
      options.logits_processor = [&](std::span<const TokenId>, std::span<float>) { ++seen; };
      options.reuse = false;
      const Reply drawn = generate(*engine, prompt, options);
      EXPECT_EQ(forced.ids, drawn.ids);
      EXPECT_EQ(forced.text, drawn.text);
      EXPECT_EQ(forced.logprobs, drawn.logprobs);
      EXPECT_EQ(forced.finish_reason, drawn.finish_reason);
      EXPECT_GE(seen, static_cast<int>(drawn.ids.size()));
    }
  }
}

TEST(Constrained, MixedWithFreeCallsNoBitDiffers) {
  for (const char* model : {"llama-gqa", "gemma3-swa"}) {
    const auto engine = open_engine({.model = model});
    const auto reference = open_engine({.model = model, .threads = 1});
    std::mt19937 random(3);
    std::vector<std::vector<TokenId>> texts = {random_tokens(random, 40)};
    const auto all = forms();
    for (int i = 0; i < testing::rounds(40); ++i) {
      std::vector<TokenId> prompt = texts[random() % texts.size()];
      prompt.resize(1 + random() % prompt.size());
      const auto more = random_tokens(random, static_cast<int>(random() % 20));
      prompt.insert(prompt.end(), more.begin(), more.end());
      GenerateOptions options;
      if (random() % 2 == 0) options.constraint = all[random() % all.size()].constraint;
      options.max_tokens = 1 + static_cast<int>(random() % 60);
      options.sampling.temperature = random() % 2 == 0 ? 0.0F : 1.0F;
      options.sampling.seed = random();
      const Reply warm = generate(*engine, prompt, options);
      options.reuse = false;
      const Reply cold = generate(*reference, prompt, options);
      ASSERT_EQ(warm.ids, cold.ids);
      ASSERT_EQ(warm.text, cold.text);
      std::vector<TokenId> whole = prompt;
      whole.insert(whole.end(), warm.ids.begin(), warm.ids.end());
      const int from = static_cast<int>(random() % whole.size());
      ASSERT_EQ(bits(*engine, whole, from, true), bits(*reference, whole, from, false));
      texts.push_back(std::move(whole));
    }
    check_cache(*engine);
  }
}

TEST(Constrained, AConstrainedCallReusesAFreeOneAndTheReverse) {
  const auto engine = open_engine();
  std::mt19937 random(4);
  const auto prompt = random_tokens(random, 64);
  GenerateOptions free;
  free.max_tokens = 4;
  generate(*engine, prompt, free);
  EXPECT_EQ(generate(*engine, prompt, constrained(Constraint::regex("[a-z]{8}"))).usage.reused_tokens, 63);
  const auto other = random_tokens(random, 64);
  const Reply first = generate(*engine, other, constrained(Constraint::regex("(abcdefgh){4}")));
  EXPECT_EQ(first.text, "abcdefghabcdefghabcdefghabcdefgh");
  std::vector<TokenId> whole = other;
  whole.insert(whole.end(), first.ids.begin(), first.ids.end());
  EXPECT_GE(generate(*engine, whole, free).usage.reused_tokens, 80);
}

TEST(Constrained, LengthIsReportedWithThePartialText) {
  const auto engine = open_engine();
  std::mt19937 random(5);
  const auto prompt = random_tokens(random, 10);
  for (int most = 1; most <= 20; ++most) {
    GenerateOptions options = constrained(Constraint::regex("ab(cdefghijklmnop)[0-9]{3}"));
    options.max_tokens = most;
    const Reply reply = generate(*engine, prompt, options);
    EXPECT_EQ(static_cast<int>(reply.ids.size()), std::min(most, 19));
    EXPECT_EQ(reply.finish_reason, most < 19 ? FinishReason::length : FinishReason::stop);
    EXPECT_EQ(reply.text.substr(0, 16), std::string("abcdefghijklmnop").substr(0, static_cast<std::size_t>(most)));
  }
}

TEST(Constrained, TheContextEndsAForcedRun) {
  const auto engine = open_engine({.context = 40});
  std::mt19937 random(6);
  const auto prompt = random_tokens(random, 30);
  GenerateOptions options = constrained(Constraint::regex("[xy](abcdefghij){5}"));
  const Reply forced = generate(*engine, prompt, options);
  options.logits_processor = [](std::span<const TokenId>, std::span<float>) {};
  const Reply drawn = generate(*engine, prompt, options);
  EXPECT_EQ(forced.finish_reason, FinishReason::length);
  EXPECT_EQ(forced.ids, drawn.ids);
  EXPECT_EQ(forced.text, drawn.text);
}

TEST(Constrained, ADeadEndHasItsOwnReason) {
  const auto engine = open_engine();
  std::mt19937 random(7);
  const auto prompt = random_tokens(random, 10);
  const auto forbid = [](std::vector<TokenId> ids) {
    GenerateOptions options = constrained(Constraint::regex("[ab]c+d"));
    for (const TokenId id : ids) options.sampling.logit_bias.emplace_back(id, -INFINITY);
    return options;
  };
  for (const float temperature : {0.0F, 1.0F, 1e30F}) {
    GenerateOptions options = forbid({'a', 'b'});
    options.sampling.temperature = temperature;
    options.sampling.repeat_penalty = 0.5F;
    options.sampling.presence_penalty = -100;
    Reply reply = generate(*engine, prompt, options);
    EXPECT_EQ(reply.finish_reason, FinishReason::dead_end);
    EXPECT_TRUE(reply.ids.empty());
    options = forbid({'c'});
    options.sampling.temperature = temperature;
    reply = generate(*engine, prompt, options);
    EXPECT_EQ(reply.finish_reason, FinishReason::dead_end);
    EXPECT_EQ(reply.ids.size(), 1U);
  }
  // Nothing brings back what is not allowed.
  GenerateOptions options = constrained(Constraint::regex("[ab]{5}"));
  options.sampling.logit_bias.emplace_back('z', INFINITY);
  options.sampling.logit_bias.emplace_back('y', 1e38F);
  EXPECT_TRUE(std::regex_match(generate(*engine, prompt, options).text, std::regex("[ab]{5}")));
}

TEST(Constrained, AStopTextStillStops) {
  const auto engine = open_engine();
  std::mt19937 random(8);
  GenerateOptions options = constrained(Constraint::regex("abcdefgh[xyz]{4}"));
  options.stop = {"ef"};
  const Reply reply = generate(*engine, random_tokens(random, 10), options);
  EXPECT_EQ(reply.text, "abcd");
  EXPECT_EQ(reply.finish_reason, FinishReason::stop);
}

TEST(Constrained, WhatIsForcedHasALogProbabilityOfZero) {
  const auto engine = open_engine();
  std::mt19937 random(9);
  GenerateOptions options = constrained(Constraint::regex("abc[xy]"), 1.0F);
  options.logprobs = true;
  const Reply reply = generate(*engine, random_tokens(random, 10), options);
  ASSERT_EQ(reply.logprobs.size(), 4U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(reply.logprobs[static_cast<std::size_t>(i)], 0.0);
  EXPECT_LT(reply.logprobs[3], 0.0);
}

TEST(Constrained, BatchesGiveWhatEachWouldGetAlone) {
  const auto engine = open_engine();
  const auto alone = open_engine();
  std::mt19937 random(10);
  std::vector<BatchRequest> requests;
  const auto all = forms();
  for (std::size_t i = 0; i < 12; ++i) {
    BatchRequest request{.prompt = random_tokens(random, 5 + static_cast<int>(i))};
    request.options.sampling.temperature = 1;
    request.options.sampling.seed = i;
    request.options.max_tokens = 60;
    request.options.logprobs = true;
    if (i % 3 != 0) request.options.constraint = all[i % all.size()].constraint;
    requests.push_back(std::move(request));
  }
  BatchGenerator batch(*engine);
  auto uids = batch.insert(requests);
  ASSERT_TRUE(uids.ok()) << uids.error().message;
  std::map<std::uint64_t, Reply> heard;
  for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
    for (const BatchResponse& response : responses) {
      Reply& mine = heard[response.uid];
      if (response.token && !engine->tokenizer().is_end_of_turn(*response.token)) {
        mine.ids.push_back(*response.token);
        mine.logprobs.push_back(response.logprob);
      }
      mine.text += response.text;
      if (response.finish_reason) mine.finish_reason = *response.finish_reason;
      if (response.finish_reason && response.cache) {
        EXPECT_LE(response.cache->size(), static_cast<int>(requests[response.uid].prompt.size() + mine.ids.size()));
      }
    }
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Reply reply = generate(*alone, requests[i].prompt, requests[i].options);
    EXPECT_EQ(heard[uids.value()[i]].ids, reply.ids);
    EXPECT_EQ(heard[uids.value()[i]].logprobs, reply.logprobs);
    EXPECT_EQ(heard[uids.value()[i]].text, reply.text);
    EXPECT_EQ(heard[uids.value()[i]].finish_reason, reply.finish_reason);
  }
  check_cache(*engine);
}

TEST(Constrained, AForkGoesOnWhereTheGrammarStood) {
  const auto engine = open_engine();
  std::mt19937 random(11);
  for (const Form& form : forms()) {
    const auto prompt = random_tokens(random, 20);
    const GenerateOptions options = constrained(form.constraint, 1.0F, 5);
    const Reply whole = generate(*engine, prompt, options);
    for (std::size_t cut = 1; cut < whole.ids.size(); ++cut) {
      std::vector<TokenId> begun = prompt;
      begun.insert(begun.end(), whole.ids.begin(), whole.ids.begin() + static_cast<std::ptrdiff_t>(cut));
      GenerateOptions rest = options;
      rest.constraint->continues = static_cast<int>(cut);
      rest.max_tokens = options.max_tokens - static_cast<int>(cut);
      const Reply reply = generate(*engine, begun, rest);
      EXPECT_EQ(reply.ids, std::vector<TokenId>(whole.ids.begin() + static_cast<std::ptrdiff_t>(cut), whole.ids.end()));
      EXPECT_EQ(reply.finish_reason, whole.finish_reason);
    }
  }
  GenerateOptions wrong = constrained(Constraint::regex("[0-9]+"));
  wrong.constraint->continues = 2;
  auto refused = engine->generate(std::vector<TokenId>{'a', '1', 'x'}, wrong, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("token 1 of the 2"));
  wrong.constraint->continues = 4;
  EXPECT_FALSE(engine->generate(std::vector<TokenId>{'a', '1', 'x'}, wrong, {}).ok());
}

TEST(Constrained, OthersKeepStreamingWhileBombsAreRefused) {
  const auto engine = open_engine();
  std::mt19937 random(12);
  const auto prompt = random_tokens(random, 20);
  GenerateOptions free;
  free.max_tokens = 300;
  const Reply expected = generate(*engine, prompt, free);
  std::atomic<bool> done{false};
  std::thread hostile([&] {
    while (!done) {
      const auto refused =
          engine->generate(prompt, constrained(Constraint::regex(std::string(8000, '(') + std::string(8000, ')'))), {});
      EXPECT_FALSE(refused.ok());
      EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
    }
  });
  for (int i = 0; i < 3; ++i) EXPECT_EQ(generate(*engine, prompt, free).ids, expected.ids);
  done = true;
  hostile.join();
}

TEST(Constrained, GrammarsAreInTheMemoryBudget) {
  const auto engine = open_engine();
  MemoryBudget& budget = ProcessMemory::current()->budget();
  const auto work = [&] { return budget.used(MemoryKind::work); };
  std::mt19937 random(13);
  const auto prompt = random_tokens(random, 20);
  generate(*engine, prompt, constrained(Constraint::one_of({"yes", "no"})));  // the vocabulary's trie stays
  release_all();
  const std::uint64_t before = work();

  std::uint64_t meanwhile = 0;
  GenerateCallbacks callbacks;
  callbacks.on_text = [&](std::string_view) {
    meanwhile = std::max(meanwhile, work());
    return true;
  };
  const auto reply = engine->generate(prompt, constrained(Constraint::json_schema(kSchema)), callbacks);
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_GE(meanwhile, before + (24ULL << 20));
  // A mask that nobody needs any more is computed to its end.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const auto is_given_back = [&] { return work() < meanwhile - (16ULL << 20); };
  while (!is_given_back() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_TRUE(is_given_back()) << work() << " of " << meanwhile;
  release_all();
  EXPECT_EQ(work(), before);

  // No room: refused, and nothing stays reserved. With room again, it works.
  auto all = budget.reserve(MemoryKind::work, budget.free_bytes() - (20ULL << 20), "the test");
  ASSERT_TRUE(all.ok());
  const auto refused = engine->generate(prompt, constrained(Constraint::regex("[a-c]{3}")), {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("the grammar of the constraint needs 24.0 MiB"));
  all.value().release();
  release_all();
  EXPECT_EQ(work(), before);
  generate(*engine, prompt, constrained(Constraint::regex("[a-c]{3}")));
}

// The rest of a grammar that is rewritten counts by what it is rewritten to: it is refused, or there is room for it.
TEST(Constrained, WhatGrowsWhenItIsRewrittenHasRoomOrIsRefused) {
  const auto engine = open_engine();
  std::mt19937 random(15);
  std::string properties;
  for (const char name : {'a', 'b', 'c'}) {
    std::string values;
    for (int i = 0; i < 150; ++i) {
      values += fmt::format("{}\"{}{:03}{}\"", i == 0 ? "" : ",", name, i, std::string(200, name));
    }
    properties += fmt::format("{}\"{}\":{{\"enum\":[{}]}}", properties.empty() ? "" : ",", name, values);
  }
  const auto schema = [&](int least) {
    return Constraint::json_schema(fmt::format(
        R"({{"type":"object","properties":{{{}}},"additionalProperties":false,"minProperties":{},"not":{{"required":["q"]}}}})",
        properties, least));
  };
  const auto prompt = random_tokens(random, 10);
  const auto refused = engine->generate(prompt, constrained(schema(2)), {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(refused.error().message, HasSubstr("come to too much"));
  GenerateOptions options = constrained(schema(0), 1.0F);
  options.max_tokens = 5;
  EXPECT_EQ(generate(*engine, prompt, options).finish_reason, FinishReason::length);
}

TEST(Constrained, AGrammarThatATextMadeTooLargeFailsNobodyElse) {
  const auto engine = open_engine();
  std::mt19937 random(16);
  const auto prompt = random_tokens(random, 10);
  GenerateOptions options = constrained(Constraint::regex("(a{1,100}){1,100}"));
  options.sampling.logit_bias.emplace_back('a', 1e30F);
  options.max_tokens = 3;
  const Reply before = generate(*engine, prompt, options);
  GenerateOptions grows = options;
  grows.max_tokens = 900;
  const auto failed = engine->generate(prompt, grows, {});
  ASSERT_FALSE(failed.ok());
  EXPECT_THAT(failed.error().message, ::testing::HasSubstr("cannot go on by its constraint"));
  EXPECT_EQ(generate(*engine, prompt, options).ids, before.ids);
}

TEST(Constrained, ManyThreadsEachGetTheirForm) {
  const auto engine = open_engine();
  const auto all = forms();
  // Judged by one thread: the library's regular expressions fill a table of the locale without a lock.
  std::vector<std::vector<std::pair<std::string, std::string>>> said(8);
  std::vector<std::thread> threads;
  for (unsigned each = 0; each < said.size(); ++each) {
    threads.emplace_back([&, each] {
      std::mt19937 random(each);
      for (int i = 0; i < testing::rounds(10); ++i) {
        const Form& form = all[(each + static_cast<unsigned>(i)) % all.size()];
        const Reply reply = generate(*engine, random_tokens(random, 8), constrained(form.constraint, 1.0F, each));
        if (reply.finish_reason != FinishReason::length) said[each].emplace_back(form.regex, reply.text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& of_thread : said) {
    for (const auto& [regex, text] : of_thread) EXPECT_TRUE(std::regex_match(text, std::regex(regex))) << text;
  }
  check_cache(*engine);
}

}  // namespace
}  // namespace dalsegno
