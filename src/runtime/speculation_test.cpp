// Guesses change nothing: tokens, bits, draws and what stays in the cache are those of plain decoding, whatever is
// guessed and however much of it is right.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "dalsegno/batch.hpp"
#include "runtime/drafter.hpp"
#include "runtime/generation.hpp"
#include "runtime/guess_witness.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::joined;
using testing::open_engine;
using testing::random_tokens;
using testing::Recorder;
using testing::Tokens;
using testing::Witness;

// Knows what will be said, and guesses the first so many of it, of which one may be wrong, or goes on beyond the truth.
class Prompter final : public Drafter {
 public:
  enum class Habit : std::uint8_t { right, often, wrong };
  Prompter(Tokens said, Habit habit, std::uint32_t seed = 1) : said_(std::move(said)), habit_(habit), random_(seed) {}

  Draft draft(const Question& question) override {
    Draft draft;
    const auto cached = question.cached(question.most);
    EXPECT_LE(cached.size(), static_cast<std::size_t>(question.most));
    if (question.most == 0) return draft;
    const auto most = static_cast<std::size_t>(question.most);
    const std::size_t count = habit_ == Habit::right ? most : 1 + random_() % most;
    for (std::size_t i = question.tokens.size(); draft.tokens.size() < count; ++i) {
      const bool true_one =
          habit_ != Habit::wrong && i < said_.size() && (habit_ == Habit::right || random_() % 5 != 0);
      draft.tokens.push_back(true_one ? said_[i] : static_cast<TokenId>(random_() % 264));
    }
    return draft;
  }

 private:
  const Tokens said_;  // prompt and reply
  const Habit habit_;
  std::mt19937 random_;
};
using Habit = Prompter::Habit;
constexpr Habit kHabits[] = {Habit::right, Habit::often, Habit::wrong};

std::shared_ptr<Witness> follow(LocalEngine& engine, const Tokens& prompt, int steps,
                                std::shared_ptr<Drafter> drafter = nullptr, bool reuse = true) {
  auto witness = std::make_shared<Witness>(steps);
  std::vector<Work> work;
  work.push_back({.request = witness,
                  .tokens = prompt,
                  .first_logit = static_cast<int>(prompt.size()) - 1,
                  .reuse = reuse,
                  .drafter = std::move(drafter)});
  engine.scheduler().submit(std::move(work));
  const Result<FinishReason> end = witness->wait();
  EXPECT_TRUE(end.ok()) << (end.ok() ? "" : end.error().message);
  return witness;
}

// What a sequence left in the cache, as far as anyone can tell.
struct Left {
  int reused = 0;
  Stopped stopped = Stopped::cold;
  std::uint64_t blocks = 0;
  std::uint64_t window_blocks = 0;
  std::uint64_t checkpoints = 0;
  std::uint64_t evicted = 0;
  std::uint64_t cached = 0;
  std::uint64_t in_use = 0;
  bool operator==(const Left&) const = default;
};

Left left_by(LocalEngine& engine, const Tokens& said) {
  const Admission seen = engine.scheduler().preview(said, static_cast<int>(said.size()) - 1, "");
  const CacheReport report = engine.cache_report();
  return {seen.reused,          seen.stopped,       report.blocks,
          report.window_blocks, report.checkpoints, report.evicted.chosen(),
          report.kv_cached,     report.kv_in_use};
}

class Speculation : public ::testing::TestWithParam<std::tuple<std::string, KvOptions>> {
 protected:
  [[nodiscard]] std::unique_ptr<LocalEngine> open() const {
    return open_engine({.model = std::get<0>(GetParam()), .kv = std::get<1>(GetParam())});
  }
};

TEST_P(Speculation, GuessesChangeNoBitAndNothingThatStays) {
  std::mt19937 random(1);
  const auto engine = open();
  for (const int size : {1, 15, 16, 37}) {
    const Tokens prompt = random_tokens(random, size);
    engine->reset_cache();
    const auto plain = follow(*engine, prompt, 90);
    const Tokens said = joined(prompt, plain->reply);
    const Left left = left_by(*engine, said);
    for (const Habit habit : kHabits) {
      engine->reset_cache();
      const auto guessed = follow(*engine, prompt, 90, std::make_shared<Prompter>(said, habit));
      EXPECT_EQ(guessed->reply, plain->reply);
      EXPECT_EQ(guessed->logits(), plain->logits());
      EXPECT_EQ(guessed->hidden(), plain->hidden());
      EXPECT_EQ(left_by(*engine, said), left);
      EXPECT_GT(guessed->proposed(), 0);
      EXPECT_TRUE(habit == Habit::right || guessed->accepted() < guessed->proposed());
      EXPECT_TRUE(habit == Habit::wrong || guessed->accepted() > 0);
      check_cache(*engine);
    }
  }
}

TEST_P(Speculation, SeveralAtOnceAndWithoutReuseChangeNoBit) {
  std::mt19937 random(2);
  const auto engine = open();
  std::vector<Tokens> prompts;
  std::vector<std::shared_ptr<Witness>> plain;
  for (int i = 0; i < 5; ++i) {
    prompts.push_back(random_tokens(random, 1 + static_cast<int>(random() % 60)));
    plain.push_back(follow(*engine, prompts.back(), 40 + 7 * i, nullptr, false));
  }
  std::vector<Work> work;
  std::vector<std::shared_ptr<Witness>> guessed;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    guessed.push_back(std::make_shared<Witness>(40 + 7 * static_cast<int>(i)));
    work.push_back({.request = guessed.back(),
                    .tokens = prompts[i],
                    .first_logit = static_cast<int>(prompts[i].size()) - 1,
                    .reuse = i != 1});
    if (i != 2) work.back().drafter = std::make_shared<Prompter>(joined(prompts[i], plain[i]->reply), kHabits[i % 3]);
  }
  engine->scheduler().submit(std::move(work));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ASSERT_TRUE(guessed[i]->wait().ok());
    EXPECT_EQ(guessed[i]->reply, plain[i]->reply);
    EXPECT_EQ(guessed[i]->logits(), plain[i]->logits());
  }
  check_cache(*engine);
}

TEST_P(Speculation, WhatAForkOrAnotherRequestGoesOnFromIsTheSame) {
  std::mt19937 random(3);
  const auto engine = open();
  const Tokens prompt = random_tokens(random, 30);
  const auto plain = follow(*engine, prompt, 60, nullptr, false);
  const Tokens said = joined(prompt, plain->reply);
  const Tokens more = joined(said, random_tokens(random, 20));
  const auto reference = follow(*engine, more, 20, nullptr, false);
  follow(*engine, prompt, 60, std::make_shared<Prompter>(said, Habit::often));
  const auto next = follow(*engine, more, 20, std::make_shared<Prompter>(more, Habit::often));
  EXPECT_EQ(next->logits(), reference->logits());
  EXPECT_EQ(next->admission().at, 30 + 60);
}

INSTANTIATE_TEST_SUITE_P(
    Models, Speculation,
    ::testing::Values(std::tuple{"llama-gqa", KvOptions{}}, std::tuple{"llama-gqa", KvOptions{KvFormat::q8}},
                      std::tuple{"llama-gqa", KvOptions{KvFormat::q8, 64, 40}},
                      std::tuple{"llama-gqa", KvOptions{KvFormat::bf16, 64, 0, 48, 5}},
                      std::tuple{"qwen2-bias", KvOptions{}}, std::tuple{"qwen3-qknorm", KvOptions{KvFormat::q8}},
                      std::tuple{"gemma3-swa", KvOptions{}}, std::tuple{"gemma3-swa", KvOptions{KvFormat::q8}},
                      std::tuple{"gemma3-swa", KvOptions{KvFormat::bf16, 64, 0, 64, 16}}));

Reply generate(LocalEngine& engine, const Tokens& prompt, const GenerateOptions& options,
               const std::shared_ptr<Drafter>& drafter = nullptr) {
  auto constrained = engine.constrain(options, prompt);
  EXPECT_TRUE(constrained.ok());
  const GenerateCallbacks nobody;
  auto generation =
      std::make_shared<Generation>(prompt, options, nobody, engine.continuing(std::move(constrained).value()));
  std::vector<Work> work;
  work.push_back({.request = generation,
                  .tokens = prompt,
                  .first_logit = static_cast<int>(prompt.size()) - 1,
                  .reuse = options.reuse,
                  .drafter = drafter,
                  .most_reply = options.max_tokens});
  engine.scheduler().submit(std::move(work));
  auto reply = generation->wait(nobody);
  EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
  return reply.ok() ? std::move(reply).value() : Reply{};
}

std::vector<GenerateOptions> kinds_of_options() {
  std::vector<GenerateOptions> all(6);
  for (GenerateOptions& each : all) {
    each.max_tokens = 70;
    each.logprobs = true;
    each.sampling.seed = 5;
  }
  all[1].sampling.temperature = 1.0F;
  all[2].sampling.temperature = 0.8F;
  all[2].sampling.top_k = 20;
  all[2].sampling.repeat_penalty = 1.3F;
  all[2].sampling.frequency_penalty = 0.2F;
  all[2].sampling.dry_multiplier = 0.8F;
  all[3].sampling.temperature = 1.0F;
  all[3].constraint = Constraint::regex("[a-c]{3}-[0-9]{2,4}(abcdefgh){2}(x|yy)[a-z ]{10,30}");
  all[4].constraint = Constraint::one_of({"yes and no and yes", "no and yes and no", "maybe so, and maybe not"});
  all[5].sampling.temperature = 1.0F;
  all[5].stop = {"e", "a"};
  return all;
}

TEST(SpeculativeGeneration, DrawsTextAndLogProbabilitiesAreTheSame) {
  std::mt19937 random(4);
  const auto engine = open_engine();
  for (const GenerateOptions& options : kinds_of_options()) {
    const Tokens prompt = random_tokens(random, 25);
    const Reply plain = generate(*engine, prompt, options);
    for (const Habit habit : kHabits) {
      engine->reset_cache();
      const Reply guessed =
          generate(*engine, prompt, options, std::make_shared<Prompter>(joined(prompt, plain.ids), habit));
      EXPECT_EQ(guessed.ids, plain.ids);
      EXPECT_EQ(guessed.text, plain.text);
      EXPECT_EQ(guessed.logprobs, plain.logprobs);
      EXPECT_EQ(guessed.finish_reason, plain.finish_reason);
      EXPECT_EQ(guessed.usage.reply_tokens, plain.usage.reply_tokens);
      EXPECT_EQ(guessed.usage.prefilled_tokens, plain.usage.prefilled_tokens);
      check_cache(*engine);
    }
    EXPECT_EQ(plain.usage.proposed_tokens, 0);
  }
}

TEST(SpeculativeGeneration, ALogitsProcessorSeesEachTokenOnce) {
  std::mt19937 random(5);
  const auto engine = open_engine();
  const Tokens prompt = random_tokens(random, 25);
  std::vector<std::size_t> seen;
  GenerateOptions options;
  options.max_tokens = 50;
  options.logits_processor = [&](std::span<const TokenId> tokens, std::span<float> logits) {
    seen.push_back(tokens.size());
    logits[tokens.size() % logits.size()] += 3;
  };
  const Reply plain = generate(*engine, prompt, options);
  const std::vector<std::size_t> each = std::exchange(seen, {});
  const Reply guessed =
      generate(*engine, prompt, options, std::make_shared<Prompter>(joined(prompt, plain.ids), Habit::often));
  EXPECT_EQ(guessed.ids, plain.ids);
  EXPECT_EQ(seen, each);
}

// All guesses are right, so that nothing but the end of the reply can make one of them a waste.
TEST(SpeculativeGeneration, NothingIsGuessedBeyondTheEndOfAReply) {
  std::mt19937 random(6);
  const auto engine = open_engine();
  const Tokens prompt = random_tokens(random, 25);
  GenerateOptions options;
  for (const int most : {1, 2, 3, 33, 34, 70}) {
    options.max_tokens = most;
    const Reply plain = generate(*engine, prompt, options);
    const Reply guessed =
        generate(*engine, prompt, options, std::make_shared<Prompter>(joined(prompt, plain.ids), Habit::right));
    EXPECT_EQ(guessed.ids, plain.ids);
    if (plain.finish_reason != FinishReason::length) continue;
    EXPECT_EQ(guessed.usage.accepted_tokens, guessed.usage.proposed_tokens);
  }
}

TEST(SpeculativeGeneration, TheContextEndsWhereItDoesWithoutGuesses) {
  std::mt19937 random(7);
  const auto engine = open_engine({.context = 64});
  const Tokens prompt = random_tokens(random, 25);
  const auto plain = follow(*engine, prompt, 100);
  const Tokens said = joined(prompt, plain->reply);
  const Left left = left_by(*engine, Tokens(said.begin(), said.begin() + 64));
  for (const Habit habit : kHabits) {
    engine->reset_cache();
    const auto guessed = follow(*engine, prompt, 100, std::make_shared<Prompter>(said, habit));
    EXPECT_EQ(guessed->logits(), plain->logits());
    EXPECT_EQ(left_by(*engine, Tokens(said.begin(), said.begin() + 64)), left);
  }
}

// The prompt and the reply fill all but a page or two: what is cached beside them stays.
TEST(SpeculativeGeneration, AGuessEvictsNothing) {
  std::mt19937 random(8);
  const auto engine = open_engine();
  const Tokens prompt = random_tokens(random, 30);
  const auto plain = follow(*engine, prompt, 33, nullptr, false);
  const Tokens said = joined(prompt, plain->reply);
  BlockTable ballast;
  for (const bool with_guesses : {false, true}) {
    engine->reset_cache();
    engine->scheduler().on_engine_thread([&](KvCache& cache) {
      cache.discard(std::move(ballast));
      // Pages are free, but the budget has no more: blocks for the sequence, and two of others.
      ballast = cache.open_private();
      int blocks = 0;
      while (cache.could_fit(cache.layout().pages_for((blocks + 1) * kBlockTokens, kBlockTokens))) ++blocks;
      ASSERT_TRUE(cache.extend(ballast, (blocks - 6) * kBlockTokens).ok());
    });
    follow(*engine, random_tokens(random, 32), 0);
    const std::uint64_t before = engine->cache_report().evicted.chosen();
    follow(*engine, prompt, 33, with_guesses ? std::make_shared<Prompter>(said, Habit::wrong) : nullptr);
    EXPECT_EQ(engine->cache_report().evicted.chosen(), before) << with_guesses;
  }
  check_cache(*engine);
  engine->scheduler().on_engine_thread([&](KvCache& cache) { cache.discard(std::move(ballast)); });
}

// Its reader takes three more at any time.
class Unhurried final : public Recorder {
 public:
  Unhurried() : Recorder(60) {}
  int most_wanted() override { return 3; }
  void on_drafted(int proposed, int accepted) override {
    EXPECT_EQ(accepted, proposed);
    EXPECT_LE(proposed, 2);
    drafts += proposed > 0 ? 1 : 0;
  }
  int drafts = 0;
};

TEST(SpeculativeGeneration, NothingIsGuessedBeyondWhatTheReaderWants) {
  std::mt19937 random(11);
  const auto engine = open_engine();
  const Tokens prompt = random_tokens(random, 30);
  const auto plain = follow(*engine, prompt, 60);
  auto guessed = std::make_shared<Unhurried>();
  std::vector<Work> work;
  work.push_back({.request = guessed, .tokens = prompt, .first_logit = 29});
  work.back().drafter = std::make_shared<Prompter>(joined(prompt, plain->reply), Habit::right);
  work.back().most_reply = 61;
  engine->scheduler().submit(std::move(work));
  EXPECT_TRUE(guessed->wait().ok());
  EXPECT_EQ(guessed->reply, plain->reply);
  EXPECT_GE(guessed->drafts, 15);
}

// Its reader is behind after twenty tokens.
class Paused final : public Recorder {
 public:
  Paused() : Recorder(100) {}
  bool wants_more() override { return reply.size() < 20; }
};

TEST(SpeculativeGeneration, BetweenStepsASequenceHoldsNoRoomForGuesses) {
  std::mt19937 random(10);
  const auto engine = open_engine();
  const Tokens prompt = random_tokens(random, 30);
  std::vector<std::uint64_t> in_use;
  for (const bool with_guesses : {false, true}) {
    engine->reset_cache();
    auto paused = std::make_shared<Paused>();
    std::vector<Work> work;
    work.push_back({.request = paused, .tokens = prompt, .first_logit = 29});
    if (with_guesses) work.back().drafter = std::make_shared<Prompter>(Tokens{}, Habit::wrong);
    engine->scheduler().submit(std::move(work));
    for (bool waits = false; !waits;) {
      engine->scheduler().on_engine_thread([&](KvCache&) { waits = paused->reply.size() >= 20; });
    }
    EXPECT_EQ(paused->reply.size(), 20U);
    in_use.push_back(engine->cache_report().kv_in_use);
    paused->cancel();
    EXPECT_EQ(paused->wait().value(), FinishReason::cancelled);
  }
  EXPECT_EQ(in_use[0], in_use[1]);
}

// By the options' own drafter, whose choice depends on the time that steps take: only the answer is certain.
TEST(SpeculativeGeneration, OnAndOffAnswerAlikeInTurnsAndBatches) {
  std::mt19937 random(9);
  const auto engine = open_engine();
  const Tokens phrase = random_tokens(random, 12);
  const Tokens prompt = joined(joined(phrase, phrase), phrase);
  GenerateOptions off;
  off.max_tokens = 150;
  off.speculation = dalsegno::Speculation::off;
  GenerateOptions on = off;
  on.speculation = dalsegno::Speculation::automatic;
  const auto plain = engine->generate(prompt, off, {});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->usage.proposed_tokens, 0);
  for (int turn = 0; turn < 3; ++turn) {
    const auto guessed = engine->generate(prompt, on, {});
    ASSERT_TRUE(guessed.ok());
    EXPECT_EQ(guessed->ids, plain->ids);
    EXPECT_LE(guessed->usage.accepted_tokens, guessed->usage.proposed_tokens);
  }
  BatchGenerator batch(*engine);
  std::vector<BatchRequest> requests;
  for (const auto& options : {on, off, on}) requests.push_back({.prompt = prompt, .options = options});
  ASSERT_TRUE(batch.insert(std::move(requests)).ok());
  std::map<std::uint64_t, Tokens> ids;
  for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
    for (const BatchResponse& each : responses) {
      if (!each.finish_reason || each.finish_reason == FinishReason::length)
        ids[each.uid].push_back(each.token.value());
    }
  }
  for (const auto& [uid, tokens] : ids) EXPECT_EQ(tokens, plain->ids) << uid;
}

}  // namespace
}  // namespace dalsegno
