// A draft model changes nothing but the time: tokens, bits, draws, log-probabilities and what stays cached are those of
// plain decoding, and nothing of the large model's makes way for it.
#include "runtime/draft_model.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>

#include "cache/block_table.hpp"
#include "gguf/gguf.hpp"
#include "gguf/gguf_writer.hpp"
#include "runtime/generation.hpp"
#include "runtime/guess_witness.hpp"
#include "runtime/overflowing_model.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::joined;
using testing::open_engine;
using testing::random_tokens;
using testing::Recorder;
using testing::rounds;
using testing::tiny_model;
using testing::Tokens;
using testing::Witness;

void guess_always(LocalEngine& engine, int tokens) {
  engine.scheduler().on_engine_thread([&](KvCache&) { engine.draft_model()->guess_always(tokens); });
}

std::string drafts_invariants(LocalEngine& engine) {
  std::string wrong;
  engine.scheduler().on_engine_thread([&](KvCache&) { wrong = engine.draft_model()->cache().check_invariants(); });
  return wrong;
}

std::uint64_t drafts_pages(LocalEngine& engine) {
  std::uint64_t pages = 0;
  engine.scheduler().on_engine_thread([&](KvCache&) { pages = engine.draft_model()->cache().stats().pages_used; });
  return pages;
}

std::uint64_t sum(const std::array<std::uint64_t, DraftReport::kMostGuesses>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

Work work_of(LocalEngine& engine, const Tokens& prompt, std::shared_ptr<Request> request, bool guessed,
             bool reuse = true, const std::string& salt = "") {
  GenerateOptions options;
  options.reuse = reuse;
  options.salt = salt;
  return {.request = std::move(request),
          .tokens = prompt,
          .first_logit = static_cast<int>(prompt.size()) - 1,
          .reuse = reuse,
          .salt = salt,
          .drafter = guessed ? engine.drafter_for(options) : nullptr};
}

void submit(LocalEngine& engine, Work work) {
  std::vector<Work> all;
  all.push_back(std::move(work));
  engine.scheduler().submit(std::move(all));
}

std::shared_ptr<Witness> follow(LocalEngine& engine, const Tokens& prompt, int steps, bool guessed) {
  auto witness = std::make_shared<Witness>(steps);
  submit(engine, work_of(engine, prompt, witness, guessed));
  const Result<FinishReason> end = witness->wait();
  EXPECT_TRUE(end.ok()) << (end.ok() ? "" : end.error().message);
  return witness;
}

struct Pair {
  const char* model;
  KvOptions kv;
  const char* draft;
};
void PrintTo(const Pair& pair, std::ostream* out) {
  *out << pair.model << " by " << pair.draft;
}

class DraftModels : public ::testing::TestWithParam<Pair> {
 protected:
  [[nodiscard]] std::unique_ptr<LocalEngine> open() const {
    return open_engine({.model = GetParam().model, .kv = GetParam().kv, .draft = GetParam().draft});
  }
};

TEST_P(DraftModels, ChangeNoBitAndNothingThatStays) {
  std::mt19937 random(1);
  const auto engine = open();
  for (const int size : {1, 16, 37, 200}) {
    const Tokens prompt = random_tokens(random, size);
    engine->reset_cache();
    const auto plain = follow(*engine, prompt, 70, false);
    const CacheReport left = engine->cache_report();
    for (const int guesses : {1, 4, 16}) {
      engine->reset_cache();
      guess_always(*engine, guesses);
      const auto guessed = follow(*engine, prompt, 70, true);
      EXPECT_EQ(guessed->reply, plain->reply);
      EXPECT_EQ(guessed->logits(), plain->logits());
      EXPECT_GT(guessed->proposed(), 0);
      const CacheReport now = engine->cache_report();
      EXPECT_EQ(now.blocks, left.blocks);
      EXPECT_EQ(now.window_blocks, left.window_blocks);
      EXPECT_EQ(now.checkpoints, left.checkpoints);
      EXPECT_EQ(now.kv_cached, left.kv_cached);
      EXPECT_EQ(now.kv_in_use, left.kv_in_use);
      EXPECT_EQ(now.evicted.chosen(), left.evicted.chosen());
      check_cache(*engine);
      EXPECT_EQ(drafts_invariants(*engine), "");
    }
  }
}

TEST_P(DraftModels, GuessForThirtyTwoAtOnceAsForOne) {
  std::mt19937 random(2);
  const auto engine = open();
  constexpr int kRequests = 32;
  std::vector<Tokens> prompts;
  std::vector<std::shared_ptr<Witness>> plain;
  std::vector<std::shared_ptr<Witness>> guessed;
  std::vector<Work> work;
  guess_always(*engine, 3);
  for (int i = 0; i < kRequests; ++i) {
    prompts.push_back(random_tokens(random, 1 + static_cast<int>(random() % 60)));
    plain.push_back(follow(*engine, prompts.back(), 10 + i, false));
    guessed.push_back(std::make_shared<Witness>(10 + i));
    work.push_back(work_of(*engine, prompts.back(), guessed.back(), i % 5 != 1, i % 4 != 2, i % 7 == 3 ? "other" : ""));
  }
  engine->reset_cache();
  engine->scheduler().submit(std::move(work));
  for (std::size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(guessed[i]->wait().ok());
    EXPECT_EQ(guessed[i]->reply, plain[i]->reply);
    EXPECT_EQ(guessed[i]->logits(), plain[i]->logits());
  }
  check_cache(*engine);
  EXPECT_EQ(drafts_invariants(*engine), "");
}

INSTANTIATE_TEST_SUITE_P(Pairs, DraftModels,
                         ::testing::Values(Pair{"llama-gqa", {}, "llama-gqa"},
                                           Pair{"llama-gqa", {KvFormat::q4, 32}, "llama-gqa"},
                                           Pair{"gemma3-swa", {}, "gemma3-swa"}, Pair{"qwen3-qknorm", {}, "gemma3-swa"},
                                           Pair{"gemma3-swa", {KvFormat::bf16, 64, 0, 64, 16}, "llama-q4_1"}));

TEST(DraftModelTest, TheModelItselfIsNearlyAlwaysRightAndAnotherIsNot) {
  std::mt19937 random(3);
  const Tokens prompt = random_tokens(random, 40);
  struct Expected {
    const char* draft;
    KvOptions kv;
    double least, most;
  };
  for (const Expected& each : {Expected{"llama-gqa", {}, 0.98, 1}, Expected{"llama-gqa", {KvFormat::q4, 32}, 0.1, 0.99},
                               Expected{"llama-q8_0", {}, 0, 0.5}}) {
    const auto engine = open_engine({.kv = each.kv, .draft = each.draft});
    guess_always(*engine, 4);
    const auto guessed = follow(*engine, prompt, 200, true);
    const double share = guessed->accepted() / static_cast<double>(std::max(1, guessed->proposed()));
    EXPECT_GE(share, each.least) << each.draft;
    EXPECT_LE(share, each.most) << each.draft;
    const DraftReport report = engine->draft_report().value();
    EXPECT_GT(report.proposed[0], report.proposed[DraftReport::kMostGuesses - 1]);
    EXPECT_LE(sum(report.accepted), sum(report.proposed));
    EXPECT_LE(sum(report.accepted), 200U);
  }
}

TEST(DraftModelTest, WhatATurnReadTheNextOneDoesNotReadAgain) {
  std::mt19937 random(4);
  for (const bool reuse : {true, false}) {
    const auto engine = open_engine({.draft = "llama-gqa"});
    guess_always(*engine, 4);
    const Tokens prompt = random_tokens(random, 300);
    GenerateOptions options;
    options.max_tokens = 40;
    options.reuse = reuse;
    const auto first = engine->generate(prompt, options, {});
    ASSERT_TRUE(first.ok());
    const std::uint64_t read = engine->draft_report()->read;
    EXPECT_GE(read, 260U);
    const Tokens next = joined(joined(prompt, first->ids), random_tokens(random, 5));
    const auto second = engine->generate(next, options, {});
    ASSERT_TRUE(second.ok());
    EXPECT_GT(second->usage.accepted_tokens, 10);
    if (reuse) {
      EXPECT_EQ(engine->draft_report()->read, read);
    } else {
      EXPECT_GT(engine->draft_report()->read, 2 * read);
    }
  }
}

TEST(DraftModelTest, WhatItReadForOneTenantItReadsAgainForAnother) {
  std::mt19937 random(12);
  const auto engine = open_engine({.draft = "llama-gqa"});
  guess_always(*engine, 4);
  const Tokens prompt = random_tokens(random, 300);
  GenerateOptions options;
  options.max_tokens = 40;
  std::vector<std::uint64_t> read;
  for (const char* salt : {"one", "other", "one"}) {
    options.salt = salt;
    ASSERT_TRUE(engine->generate(prompt, options, {}).ok());
    read.push_back(engine->draft_report()->read);
  }
  EXPECT_GE(read[0], 260U);
  EXPECT_GE(read[1], 2 * read[0] - 40);
  EXPECT_EQ(read[2], read[1]);
}

TEST(DraftModelTest, DrawsTextAndLogProbabilitiesAreTheSame) {
  std::mt19937 random(5);
  const auto engine = open_engine({.draft = "llama-gqa"});
  std::vector<GenerateOptions> kinds(4);
  for (GenerateOptions& each : kinds) {
    each.max_tokens = 60;
    each.logprobs = true;
    each.sampling.seed = 5;
  }
  kinds[1].sampling.temperature = 1.0F;
  kinds[2].sampling.temperature = 0.8F;
  kinds[2].sampling.top_k = 20;
  kinds[2].sampling.repeat_penalty = 1.3F;
  kinds[3].constraint = Constraint::regex("[a-c]{3}-[0-9]{2,4}(abcdefgh){2}(x|yy)[a-z ]{10,30}");
  guess_always(*engine, 5);
  for (GenerateOptions options : kinds) {
    const Tokens prompt = random_tokens(random, 25);
    options.speculation = Speculation::off;
    const auto plain = engine->generate(prompt, options, {});
    ASSERT_TRUE(plain.ok());
    EXPECT_EQ(plain->usage.proposed_tokens, 0);
    options.speculation = Speculation::automatic;
    engine->reset_cache();
    const auto guessed = engine->generate(prompt, options, {});
    ASSERT_TRUE(guessed.ok());
    EXPECT_EQ(guessed->ids, plain->ids);
    EXPECT_EQ(guessed->text, plain->text);
    EXPECT_EQ(guessed->logprobs, plain->logprobs);
    EXPECT_EQ(guessed->finish_reason, plain->finish_reason);
    EXPECT_GT(guessed->usage.proposed_tokens, 0);
    check_cache(*engine);
  }
}

// By its own choice, whatever the time that steps take here.
TEST(DraftModelTest, AsManyAsPayAnswerAlike) {
  std::mt19937 random(6);
  const auto engine = open_engine({.draft = "llama-gqa"});
  const Tokens prompt = random_tokens(random, 50);
  const auto plain = follow(*engine, prompt, 400, false);
  for (int turn = 0; turn < 3; ++turn) {
    const auto guessed = follow(*engine, prompt, 400, true);
    EXPECT_EQ(guessed->reply, plain->reply);
  }
}

TEST(DraftModelTest, CancelledOnesLeaveNothingOpen) {
  std::mt19937 random(7);
  const auto engine = open_engine({.draft = "llama-gqa"});
  guess_always(*engine, 4);
  for (int round = 0; round < rounds(20); ++round) {
    std::vector<std::shared_ptr<Witness>> all;
    for (int i = 0; i < 4; ++i) {
      all.push_back(std::make_shared<Witness>(300));
      submit(*engine, work_of(*engine, random_tokens(random, 30), all.back(), true));
    }
    for (const auto& each : all) {
      engine->scheduler().on_engine_thread([](KvCache&) {});
      each->cancel();
      EXPECT_TRUE(each->wait().ok());
    }
  }
  engine->reset_cache();
  EXPECT_EQ(drafts_pages(*engine), 0U);
  EXPECT_EQ(drafts_invariants(*engine), "");
}

// All but a few blocks of the large model's belong to something else, so that four requests take turns.
TEST(DraftModelTest, PreemptedOnesGoOnWithTheSameBits) {
  std::mt19937 random(8);
  const auto engine = open_engine({.draft = "llama-gqa"});
  guess_always(*engine, 4);
  std::vector<Tokens> prompts;
  std::vector<std::shared_ptr<Witness>> plain;
  for (int i = 0; i < 4; ++i) {
    prompts.push_back(random_tokens(random, 30));
    plain.push_back(follow(*engine, prompts.back(), 60, false));
  }
  engine->reset_cache();
  BlockTable ballast;
  engine->scheduler().on_engine_thread([&](KvCache& cache) {
    ballast = cache.open_private();
    int blocks = 0;
    while (cache.could_fit(cache.layout().pages_for((blocks + 1) * kBlockTokens, kBlockTokens))) ++blocks;
    ASSERT_TRUE(cache.extend(ballast, (blocks - 14) * kBlockTokens).ok());
  });
  std::vector<std::shared_ptr<Witness>> guessed;
  std::vector<Work> work;
  for (const Tokens& prompt : prompts) {
    guessed.push_back(std::make_shared<Witness>(60));
    work.push_back(work_of(*engine, prompt, guessed.back(), true));
  }
  engine->scheduler().submit(std::move(work));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ASSERT_TRUE(guessed[i]->wait().ok());
    EXPECT_EQ(guessed[i]->reply, plain[i]->reply);
  }
  EXPECT_GT(engine->scheduler().preemptions(), 0U);
  check_cache(*engine);
  engine->scheduler().on_engine_thread([&](KvCache& cache) { cache.discard(std::move(ballast)); });
}

// The room of two sequences for five, which therefore are guessed for by turns or not at all.
TEST(DraftModelTest, WhereItsRoomEndsSoDoItsGuesses) {
  std::mt19937 random(9);
  const auto engine = open_engine({.context = 128, .draft = "llama-gqa"});
  guess_always(*engine, 4);
  std::vector<std::shared_ptr<Witness>> all;
  std::vector<Work> work;
  std::vector<Tokens> prompts;
  for (int i = 0; i < 5; ++i) {
    prompts.push_back(random_tokens(random, 90));
    all.push_back(std::make_shared<Witness>(35));
    work.push_back(work_of(*engine, prompts.back(), all.back(), true));
  }
  engine->scheduler().submit(std::move(work));
  int unguessed = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_TRUE(all[i]->wait().ok());
    unguessed += all[i]->proposed() == 0 ? 1 : 0;
    EXPECT_EQ(all[i]->reply, follow(*engine, prompts[i], 35, false)->reply);
  }
  EXPECT_GE(unguessed, 1);
  EXPECT_LE(unguessed, 4);
  EXPECT_EQ(drafts_invariants(*engine), "");
}

TEST(DraftModelTest, ItsMemoryIsInTheBudgetFromTheStartAndNeverGrows) {
  std::mt19937 random(10);
  MemoryReport without;
  {
    const auto engine = open_engine({});
    without = memory_report().value();
  }
  {
    const auto engine = open_engine({.draft = "llama-gqa"});
    const MemoryReport opened = memory_report().value();
    EXPECT_EQ(opened.weights, 2 * without.weights);
    EXPECT_GT(opened.work, without.work);
    guess_always(*engine, 4);
    for (int i = 0; i < 8; ++i) follow(*engine, random_tokens(random, 100), 50, true);
    EXPECT_GT(drafts_pages(*engine), 0U);
    const MemoryReport used = memory_report().value();
    EXPECT_EQ(used.weights, opened.weights);
    EXPECT_EQ(used.work, opened.work);
    EXPECT_LE(used.weights + used.work + used.kv + used.index, used.limit);
    release_all();
    EXPECT_EQ(drafts_pages(*engine), 0U);
    EXPECT_EQ(memory_report()->kv, 0U);
    // It goes on after that.
    const auto again = follow(*engine, random_tokens(random, 60), 30, true);
    EXPECT_GT(again->accepted(), 0);
  }
  EXPECT_FALSE(memory_report().has_value());
}

TEST(DraftModelTest, NumbersThatOverflowEndItsGuessesAlone) {
  std::mt19937 random(11);
  const std::string path = fmt::format("{}overflowing-draft-{}.gguf", ::testing::TempDir(), ::getpid());
  const testing::OverflowingModel written("blk.0.attn_v.weight", path);
  const auto engine = open_engine({.draft = path});
  guess_always(*engine, 4);
  Tokens poisoned = random_tokens(random, 40, testing::kPoison);
  const Tokens sound = poisoned;
  poisoned[20] = testing::kPoison;
  const auto plain = follow(*engine, poisoned, 40, false);
  const auto guessed = follow(*engine, poisoned, 40, true);
  EXPECT_EQ(guessed->reply, plain->reply);
  EXPECT_EQ(guessed->logits(), plain->logits());
  EXPECT_EQ(sum(engine->draft_report()->proposed), 0U);
  follow(*engine, sound, 40, true);
  EXPECT_GT(sum(engine->draft_report()->proposed), 0U);
}

// --- What is refused ---

class DraftFiles : public ::testing::Test {
 protected:
  void TearDown() override { std::remove(path_.c_str()); }
  void write(std::string_view bytes) {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  [[nodiscard]] Error refusal() const {
    EngineOptions options;
    options.model_path = tiny_model("llama-gqa");
    options.draft_model_path = path_;
    options.memory.bytes = 256ULL << 20;
    const auto opened = LocalEngine::open(options);
    EXPECT_FALSE(opened.ok());
    EXPECT_FALSE(memory_report().has_value());
    const auto needed = LocalEngine::bytes_needed(options);
    EXPECT_FALSE(needed.ok());
    if (opened.ok() || needed.ok()) return {};
    EXPECT_EQ(needed.error().message, opened.error().message);
    return opened.error();
  }
  const std::string path_ = fmt::format("{}draft-{}.gguf", ::testing::TempDir(), ::getpid());
};

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(DraftFiles, AnotherTokenIsNamed) {
  const std::string source = tiny_model("llama-gqa");
  std::string bytes = bytes_of(source);
  const auto file = GgufFile::open(source);
  const auto tokens = file.value()->strings("tokenizer.ggml.tokens");
  const GgufTensor& tensor = file.value()->tensors().front();
  const auto* begin = reinterpret_cast<const char*>(tensor.data) - tensor.offset;
  bytes[static_cast<std::size_t>((*tokens)[70].data() - begin)] = '~';
  write(bytes);
  const Error error = refusal();
  EXPECT_EQ(error.code, ErrorCode::unsupported);
  EXPECT_EQ(error.message,
            fmt::format("the draft model: '{}': token 70 is '~', but '{}' in '{}'; choose a draft model with "
                        "the same vocabulary",
                        path_, (*tokens)[70], source));
}

TEST_F(DraftFiles, AnotherNumberOfTokensIsNamed) {
  const auto file = GgufFile::open(tiny_model("llama-gqa"));
  auto tokens = file.value()->strings("tokenizer.ggml.tokens").value();
  const std::vector<std::string> fewer(tokens.begin(), tokens.end() - 1);
  testing::TestGguf draft;
  draft.set("tokenizer.ggml.tokens", testing::texts(fewer));
  write(draft.bytes());
  const Error error = refusal();
  EXPECT_EQ(error.code, ErrorCode::unsupported);
  EXPECT_EQ(
      error.message,
      fmt::format("the draft model: '{}' has a vocabulary of {} tokens, but '{}' one of {}; choose a draft model with "
                  "the same vocabulary",
                  path_, fewer.size(), tiny_model("llama-gqa"), tokens.size()));
}

// Some models of a family have more rows than others, with names that nothing is encoded as.
TEST_F(DraftFiles, UnusedTokensBeyondTheOthersAreNoDifference) {
  const auto file = GgufFile::open(tiny_model("llama-gqa"));
  auto tokens = file.value()->strings("tokenizer.ggml.tokens").value();
  auto types = file.value()->integers("tokenizer.ggml.token_type").value();
  std::vector<std::string> more(tokens.begin(), tokens.end());
  more.emplace_back("[PAD]");
  types.push_back(5);
  testing::TestGguf draft;
  draft.set("tokenizer.ggml.tokens", testing::texts(more));
  draft.set("tokenizer.ggml.token_type",
            testing::numbers(GgufType::i32, std::vector<std::int32_t>(types.begin(), types.end())));
  write(draft.bytes());
  const Error error = refusal();
  EXPECT_EQ(error.code, ErrorCode::corrupt) << "it has nothing but tokens";
  EXPECT_EQ(error.message.find("same vocabulary"), std::string::npos) << error.message;
}

TEST_F(DraftFiles, ADamagedOrMissingFileIsSaidToBeTheDraftModels) {
  const Error missing = refusal();
  EXPECT_EQ(missing.code, ErrorCode::not_found);
  EXPECT_TRUE(missing.message.starts_with("the draft model: ")) << missing.message;
  write(bytes_of(tiny_model("llama-gqa")).substr(0, 9000));
  const Error damaged = refusal();
  EXPECT_EQ(damaged.code, ErrorCode::corrupt);
  EXPECT_TRUE(damaged.message.starts_with("the draft model: ")) << damaged.message;
  EXPECT_NE(damaged.message.find(path_), std::string::npos);
}

}  // namespace
}  // namespace dalsegno
