// The promise: the logits at a position have the same bits however they were reached.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "dalsegno/diagnostics.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::open_engine;
using testing::random_tokens;
using testing::Recorder;
using testing::run;

// Every position that `part` saw has the bits that `whole` has for it.
void expect_same(const Recorder& whole, const Recorder& part, const std::string& what) {
  ASSERT_FALSE(part.logits().empty()) << what;
  for (const auto& [position, bits] : part.logits()) {
    const auto reference = whole.logits().find(position);
    ASSERT_NE(reference, whole.logits().end()) << what;
    ASSERT_EQ(reference->second, bits) << what << ", position " << position;
  }
}

class Exactness : public ::testing::TestWithParam<std::tuple<std::string, KvOptions, int>> {
 protected:
  [[nodiscard]] std::unique_ptr<LocalEngine> open(int threads = 2, std::uint64_t memory_bytes = 256ULL << 20) const {
    return open_engine({.model = std::get<0>(GetParam()),
                        .kv = std::get<1>(GetParam()),
                        .activation_bits = std::get<2>(GetParam()),
                        .threads = threads,
                        .memory_bytes = memory_bytes});
  }
};

TEST_P(Exactness, AnyNumberOfThreadsGivesTheSameBits) {
  std::mt19937 random(1);
  const std::vector<TokenId> tokens = random_tokens(random, 300);
  const auto reference = run(*open(1), tokens);
  for (const int threads : {2, 3, 5})
    expect_same(*reference, *run(*open(threads), tokens), std::to_string(threads) + " threads");
}

TEST_P(Exactness, AnyChunkGivesTheSameBits) {
  std::mt19937 random(2);
  const std::vector<TokenId> tokens = random_tokens(random, 290);
  const auto engine = open();
  const auto reference = run(*engine, tokens, {.reuse = false});
  for (const int chunk : {1, 7, 16, 64, 100, 4096}) {
    if (testing::kSanitized && (chunk == 1 || chunk == 16)) continue;
    expect_same(*reference, *run(*engine, tokens, {.chunk = chunk, .reuse = false}),
                "chunks of " + std::to_string(chunk));
  }
}

TEST_P(Exactness, RandomHistoriesAloneAndInCompanyGiveTheSameBits) {
  std::mt19937 random(3);
  const auto engine = open();
  for (int round = 0; round < testing::rounds(25); ++round) {
    const int size = 2 + static_cast<int>(random() % 150);
    const std::vector<TokenId> tokens = random_tokens(random, size);
    const auto reference = run(*engine, tokens, {.reuse = false});

    // Others share beginnings of random length, run in the same steps, and leave blocks behind.
    std::vector<Work> work;
    std::vector<std::shared_ptr<Recorder>> recorders;
    const int others = 1 + static_cast<int>(random() % 7);
    for (int other = 0; other < others; ++other) {
      std::vector<TokenId> theirs = random_tokens(random, 1 + static_cast<int>(random() % 100));
      const auto shared =
          std::min(tokens.size(), static_cast<std::size_t>(random() % (static_cast<unsigned>(size) + 1)));
      theirs.insert(theirs.begin(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(shared));
      const int from = static_cast<int>(random() % theirs.size());
      recorders.push_back(std::make_shared<Recorder>(static_cast<int>(random() % 20)));
      work.push_back(
          {recorders.back(), std::move(theirs), from, 1 + static_cast<int>(random() % 64), random() % 4 != 0});
    }
    const int from = static_cast<int>(random() % static_cast<unsigned>(size));
    auto own = std::make_shared<Recorder>();
    work.insert(work.begin() + static_cast<std::ptrdiff_t>(random() % work.size()),
                {own, tokens, from, 1 + static_cast<int>(random() % 64), true});
    engine->scheduler().submit(std::move(work));
    ASSERT_TRUE(own->wait().ok());
    for (const auto& recorder : recorders) ASSERT_TRUE(recorder->wait().ok());
    expect_same(*reference, *own, "in company");

    const int split = static_cast<int>(random() % static_cast<unsigned>(size));
    const auto warm = run(*engine, tokens, {.from = split});
    EXPECT_EQ(warm->admission().at, std::min(split, size - 1));
    EXPECT_LE(warm->admission().reused, warm->admission().at);
    expect_same(*reference, *warm, "warm from " + std::to_string(split));
    check_cache(*engine);
    if (round % 5 == 4) engine->reset_cache();
    expect_same(*reference, *run(*engine, tokens, {.from = split}), "after a reset");
  }
}

TEST_P(Exactness, APreemptedSequenceResumesWithTheSameBits) {
  // Room for a few blocks more than the work buffers: sequences that grow together must give way.
  std::mt19937 random(4);
  auto roomy = open();
  std::vector<std::vector<TokenId>> prompts;
  for (int i = 0; i < 6; ++i) prompts.push_back(random_tokens(random, 40));
  std::vector<std::shared_ptr<Recorder>> references;
  for (const auto& prompt : prompts)
    references.push_back(run(*roomy, prompt, {.from = 39, .reuse = false, .steps = 200}));

  roomy.reset();  // engines that are open together share one budget
  const auto tight = open();
  std::uint64_t limit = 0;
  tight->scheduler().on_engine_thread([&](KvCache& cache) { limit = cache.stats().pages_limit; });
  // Leaves room for four of nine parts of what six sequences of 240 tokens need.
  int blocks = 0;
  tight->scheduler().on_engine_thread([&](KvCache& cache) {
    const std::uint64_t spare = 6 * cache.layout().pages_for(240, 1) * 4 / 9;
    const auto pages = [&](int count) { return cache.layout().pages_for(count * kBlockTokens, count * kBlockTokens); };
    while (pages(blocks + 1) <= limit - spare) ++blocks;
  });
  BlockTable ballast;
  tight->scheduler().on_engine_thread([&](KvCache& cache) {
    ballast = cache.open_private();
    ASSERT_TRUE(cache.extend(ballast, blocks * kBlockTokens).ok());
  });
  std::vector<Work> work;
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (const auto& prompt : prompts) {
    recorders.push_back(std::make_shared<Recorder>(200));
    work.push_back({recorders.back(), prompt, 39, 512, true});
  }
  tight->scheduler().submit(std::move(work));
  for (std::size_t i = 0; i < recorders.size(); ++i) {
    ASSERT_TRUE(recorders[i]->wait().ok());
    EXPECT_EQ(recorders[i]->reply, references[i]->reply);
    expect_same(*references[i], *recorders[i], "sequence " + std::to_string(i));
    EXPECT_EQ(recorders[i]->logits().size(), references[i]->logits().size());
  }
  check_cache(*tight);
  tight->scheduler().on_engine_thread([&](KvCache& cache) {
    EXPECT_GT(cache.stats().evicted.chosen(), 0U);
    cache.discard(std::move(ballast));
  });
}

// What is in sight is a matter of the position alone; until max_size it is everything.
TEST(BoundedSight, UntilMaxSizeTheBitsAreThoseOfThePlainCacheAndThenDiffer) {
  std::mt19937 random(5);
  const std::vector<TokenId> tokens = random_tokens(random, 200);
  for (const char* model : {"llama-gqa", "gemma3-swa"}) {
    const auto plain = run(*open_engine({.model = model}), tokens);
    for (const int max_size : {1, 20, 64, 150}) {
      for (const int keep : {0, max_size / 3}) {
        const auto bounded =
            run(*open_engine({.model = model, .kv = {.max_size = max_size, .keep = keep}}), tokens, {.chunk = 50});
        for (const auto& [position, bits] : bounded->logits()) {
          if (position < max_size) {
            ASSERT_EQ(bits, plain->logits().at(position)) << model << " " << position;
          }
        }
        EXPECT_NE(bounded->logits().at(199), plain->logits().at(199)) << model << " " << max_size;
      }
    }
  }
}

// Until the start they are values, from there on codes, whatever the step.
TEST(CodesFromAStart, BeforeItTheBitsAreThoseOfBf16AndThenDiffer) {
  std::mt19937 random(6);
  const std::vector<TokenId> tokens = random_tokens(random, 300);
  for (const char* model : {"llama-gqa", "gemma3-swa"}) {
    const auto plain = run(*open_engine({.model = model}), tokens);
    for (const KvFormat format : {KvFormat::q8, KvFormat::q4}) {
      const auto codes = run(*open_engine({.model = model, .kv = {.format = format}}), tokens);
      for (const int start : {1, 16, 63, 128, 270}) {
        if (testing::kSanitized && start != 63) continue;
        const KvOptions kv{.format = format, .start = start};
        const auto mixed = run(*open_engine({.model = model, .kv = kv}), tokens, {.chunk = 37});
        const int rounded = (start + 15) / 16 * 16;
        for (const auto& [position, bits] : mixed->logits()) {
          if (position < rounded) {
            ASSERT_EQ(bits, plain->logits().at(position)) << model << " " << start << " " << position;
          }
        }
        EXPECT_NE(mixed->logits().at(299), plain->logits().at(299)) << model << " " << start;
        EXPECT_NE(mixed->logits().at(299), codes->logits().at(299)) << model << " " << start;
        const auto whole = run(*open_engine({.model = model, .kv = {.format = format, .start = rounded}}), tokens);
        expect_same(*whole, *mixed, "rounded up");
      }
      const auto never = run(*open_engine({.model = model, .kv = {.format = format, .start = 300}}), tokens);
      expect_same(*plain, *never, "never");
    }
  }
}

std::string test_name(const ::testing::TestParamInfo<std::tuple<std::string, KvOptions, int>>& info) {
  std::string text = std::get<0>(info.param) + "_" + name(std::get<1>(info.param).format) + "_" +
                     std::to_string(std::get<2>(info.param));
  if (std::get<1>(info.param).start > 0) text += "_from_" + std::to_string(std::get<1>(info.param).start);
  if (std::get<1>(info.param).max_size > 0) text += "_max_" + std::to_string(std::get<1>(info.param).max_size);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(TinyModels, Exactness,
                         ::testing::Combine(::testing::Values("llama-gqa", "llama-rope3", "llama-q4_1", "llama-q6_k",
                                                              "qwen2-bias", "qwen3-qknorm", "gemma3-swa"),
                                            ::testing::Values(KvOptions{}, KvOptions{.format = KvFormat::f32}),
                                            ::testing::Values(8)),
                         test_name);
INSTANTIATE_TEST_SUITE_P(
    TinyModelsWithCodes, Exactness,
    ::testing::Combine(
        ::testing::Values("llama-gqa", "llama-q4_1", "gemma3-swa"),
        ::testing::Values(KvOptions{.format = KvFormat::q8}, KvOptions{.format = KvFormat::q4, .group_size = 32},
                          KvOptions{.format = KvFormat::q8, .start = 90},
                          KvOptions{.format = KvFormat::q4, .start = 64},
                          KvOptions{.format = KvFormat::q4, .group_size = 32, .start = 33, .max_size = 100, .keep = 40},
                          KvOptions{.max_size = 70, .keep = 5}, KvOptions{.format = KvFormat::q8, .max_size = 33}),
        ::testing::Values(8)),
    test_name);
// Only quantised weights know the difference.
INSTANTIATE_TEST_SUITE_P(TinyModelsWithWideActivations, Exactness,
                         ::testing::Combine(::testing::Values("llama-q8_0", "llama-q4_1", "llama-q6_k"),
                                            ::testing::Values(KvOptions{}), ::testing::Values(16)),
                         test_name);

}  // namespace
}  // namespace dalsegno
