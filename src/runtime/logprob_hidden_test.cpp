// Answers of the output head alone, from hidden states that were kept: the bits of the whole model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <tuple>

#include "dalsegno/diagnostics.hpp"
#include "dalsegno/logprobs.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_engine;
using testing::random_tokens;

constexpr int kContexts = 70;
// So much that the hidden states, with their tokens, fit beside the rows' quarter, which holds some twenty.
std::uint64_t room(const LocalEngine& engine) {
  const auto hidden = static_cast<std::uint64_t>(engine.config().hidden);
  return kContexts * (hidden * sizeof(float) + 700) * 4 / 3;
}

using Bits = std::vector<std::uint32_t>;

Bits bits(const LogprobRow& row) {
  Bits all(row->size());
  std::memcpy(all.data(), row->data(), row->size() * sizeof(float));
  return all;
}

std::vector<std::vector<TokenId>> contexts_of(unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<TokenId>> contexts;
  const auto prompt = random_tokens(random, 60);
  for (int i = 0; i < kContexts; ++i) {
    contexts.emplace_back(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(random() % 60));
    contexts.back().push_back(static_cast<TokenId>(random() % 264));
    contexts.back().push_back(i);
  }
  return contexts;
}

// Model, bits of activations, threads.
class HiddenStates : public ::testing::TestWithParam<std::tuple<const char*, int, int>> {
 protected:
  std::unique_ptr<LocalEngine> engine_ = open_engine({.model = std::get<0>(GetParam()),
                                                      .activation_bits = std::get<1>(GetParam()),
                                                      .threads = std::get<2>(GetParam())});
  std::unique_ptr<LogprobCache> cache_ = LogprobCache::create(*engine_, {.max_bytes = room(*engine_)}).value();
};

TEST_P(HiddenStates, GiveTheRowsOfTheModel) {
  const auto contexts = contexts_of(3);
  std::vector<Bits> fresh;
  for (const auto& context : contexts) {
    fresh.push_back(bits(cache_->next_token_logprobs(context).value()));
    cache_->clear_cache();
  }
  const std::uint64_t computed = cache_->stats().computed;
  ASSERT_TRUE(cache_->next_token_logprobs(contexts).ok());
  ASSERT_EQ(cache_->stats().computed, computed + kContexts);
  ASSERT_EQ(cache_->stats().hidden_states, kContexts);
  ASSERT_LT(cache_->stats().rows, kContexts - 20);
  engine_->reset_cache();
  const auto again = cache_->next_token_logprobs(contexts).value();
  for (std::size_t i = 0; i < contexts.size(); ++i) EXPECT_EQ(bits(again[i]), fresh[i]) << i;
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    EXPECT_EQ(bits(cache_->next_token_logprobs(contexts[i]).value()), fresh[i]) << "alone: " << i;
  }
  const LogprobStats stats = cache_->stats();
  EXPECT_EQ(stats.computed, computed + kContexts) << "the model ran for none of them";
  EXPECT_GT(stats.from_hidden, 20U);
  EXPECT_GT(stats.hits, 0U);
  EXPECT_LE(stats.bytes, room(*engine_));
}

INSTANTIATE_TEST_SUITE_P(Models, HiddenStates,
                         ::testing::Combine(::testing::Values("llama-gqa", "llama-bf16", "llama-q4_k", "qwen2-bias",
                                                              "qwen3-qknorm", "gemma3-swa"),
                                            ::testing::Values(8, 16), ::testing::Values(1, 2)));

class HiddenState : public ::testing::Test {
 protected:
  std::unique_ptr<LocalEngine> engine_ = open_engine();
  std::unique_ptr<LogprobCache> cache_ = LogprobCache::create(*engine_, {.max_bytes = room(*engine_)}).value();
};

// Queries, forgetting and a reply that is under way at the same time.
TEST_F(HiddenState, ThreadsThatAskGetTheBitsOfEachAlone) {
  const auto contexts = contexts_of(8);
  std::vector<Bits> fresh;
  for (const auto& context : contexts) fresh.push_back(bits(cache_->next_token_logprobs(context).value()));
  const auto alone = engine_->generate(contexts[0], {.max_tokens = 150}, {}).value().ids;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 40; ++i) {
        std::vector<std::size_t> chosen(1 + random() % 9);
        std::vector<std::vector<TokenId>> batch;
        for (std::size_t& at : chosen) batch.push_back(contexts[at = random() % contexts.size()]);
        const auto rows = cache_->next_token_logprobs(batch).value();
        for (std::size_t k = 0; k < chosen.size(); ++k) EXPECT_EQ(bits(rows[k]), fresh[chosen[k]]);
        if (random() % 16 == 0) cache_->clear_cache();
        if (random() % 32 == 0) release_all();
      }
    });
  }
  EXPECT_EQ(engine_->generate(contexts[0], {.max_tokens = 150}, {}).value().ids, alone);
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(cache_->stats().from_hidden, 0U);
}

TEST_F(HiddenState, AnswersMayOutliveTheCacheAndAreCancelledWithTheEngine) {
  const auto contexts = contexts_of(9);
  ASSERT_TRUE(cache_->next_token_logprobs(contexts).ok());
  const auto queries = cache_->query(contexts);
  cache_.reset();
  for (std::size_t i = 0; i < 20; ++i) EXPECT_TRUE(queries[i].get().ok());
  engine_.reset();
  for (const auto& query : queries) {
    ASSERT_TRUE(query.is_ready());
    const auto row = query.get();
    EXPECT_TRUE(row.ok() || row.error().code == ErrorCode::cancelled);
  }
}

TEST_F(HiddenState, IsKeptWhereARowIsTooLarge) {
  cache_ = LogprobCache::create(*engine_, {.max_bytes = 1400}).value();
  const std::vector<TokenId> context{1, 2, 3};
  const Bits first = bits(cache_->next_token_logprobs(context).value());
  EXPECT_EQ(cache_->stats().rows, 0U);
  EXPECT_EQ(cache_->stats().hidden_states, 1U);
  EXPECT_EQ(bits(cache_->next_token_logprobs(context).value()), first);
  EXPECT_EQ(cache_->stats().computed, 1U);
  EXPECT_EQ(cache_->stats().from_hidden, 1U);
}

}  // namespace
}  // namespace dalsegno
