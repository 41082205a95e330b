#include "dalsegno/batch.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <map>
#include <stdexcept>
#include <thread>

#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::open_engine;
using testing::random_tokens;

struct Heard {
  std::vector<TokenId> ids;
  std::vector<double> logprobs;
  std::string text;
  std::optional<FinishReason> finish;
  std::optional<Error> error;
  Usage usage;
};

class Batch : public ::testing::Test {
 protected:
  BatchRequest request(int length, int max_tokens) {
    BatchRequest made{.prompt = random_tokens(random_, length)};
    made.options.max_tokens = max_tokens;
    return made;
  }
  static void hear(const std::vector<BatchResponse>& responses, std::map<std::uint64_t, Heard>& heard) {
    std::optional<std::uint64_t> before;
    for (const BatchResponse& response : responses) {
      EXPECT_TRUE(!before || *before < response.uid);
      before = response.uid;
      Heard& mine = heard[response.uid];
      EXPECT_FALSE(mine.finish) << "something came after the end of " << response.uid;
      if (response.token) mine.ids.push_back(*response.token);
      mine.logprobs.push_back(response.logprob);
      mine.text += response.text;
      mine.finish = response.finish_reason;
      mine.error = response.error;
      if (response.token) {
        EXPECT_EQ(response.usage.reused_tokens + response.usage.prefilled_tokens, response.usage.prompt_tokens);
      }
      mine.usage = response.usage;
    }
  }
  static std::map<std::uint64_t, Heard> hear_all(BatchGenerator& batch) {
    std::map<std::uint64_t, Heard> heard;
    for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) hear(responses, heard);
    return heard;
  }
  // The same request alone, on an engine that has cached nothing.
  Heard alone(const BatchRequest& request) {
    engine_->reset_cache();
    const auto reply = engine_->generate(request.prompt, request.options, {});
    EXPECT_TRUE(reply.ok());
    return {reply.value().ids, reply.value().logprobs, reply.value().text, reply.value().finish_reason, {}, {}};
  }
  void expect_same(const Heard& heard, const Heard& wanted) {
    EXPECT_EQ(heard.finish, wanted.finish);
    EXPECT_EQ(heard.text, wanted.text);
    ASSERT_GE(heard.ids.size(), wanted.ids.size());
    EXPECT_LE(heard.ids.size(), wanted.ids.size() + 1) << "but for an end-of-turn token";
    EXPECT_TRUE(std::equal(wanted.ids.begin(), wanted.ids.end(), heard.ids.begin()));
    ASSERT_GE(heard.logprobs.size(), wanted.logprobs.size());
    EXPECT_TRUE(std::equal(wanted.logprobs.begin(), wanted.logprobs.end(), heard.logprobs.begin()));
  }

  std::mt19937 random_{23};
  std::unique_ptr<LocalEngine> engine_ = open_engine();
};

TEST_F(Batch, EveryRequestGetsWhatItWouldGetAlone) {
  std::vector<BatchRequest> requests;
  for (int i = 0; i < 12; ++i) {
    requests.push_back(request(3 + 17 * (i % 5), 5 + i));
    GenerateOptions& options = requests.back().options;
    options.sampling = {.temperature = i % 2 == 0 ? 0.0F : 1.5F, .seed = 5, .stream = static_cast<std::uint64_t>(i)};
    options.logprobs = i % 3 == 0;
  }
  std::vector<Heard> wanted;
  for (const BatchRequest& each : requests) wanted.push_back(alone(each));
  for (const bool backwards : {false, true}) {
    engine_->reset_cache();
    BatchGenerator batch(*engine_);
    auto order = requests;
    for (std::size_t i = 0; i < order.size(); ++i) order[i].uid = i;
    if (backwards) std::reverse(order.begin(), order.end());
    ASSERT_TRUE(batch.insert(std::move(order)).ok());
    const auto heard = hear_all(batch);
    ASSERT_EQ(heard.size(), requests.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) expect_same(heard.at(i), wanted[i]);
  }
  check_cache(*engine_);
}

// What is looked ahead for: the first thread's sequences have nothing in codes yet, the other's have.
TEST_F(Batch, SequencesBeforeAndBeyondTheStartOfCodesRunTogether) {
  engine_ = open_engine({.kv = {.format = KvFormat::q8, .start = 64}, .threads = 2});
  std::vector<BatchRequest> requests;
  for (int i = 0; i < 12; ++i) requests.push_back(request(i < 8 ? 10 : 100, 8));
  std::vector<Heard> wanted;
  for (const BatchRequest& each : requests) wanted.push_back(alone(each));
  engine_->reset_cache();
  BatchGenerator batch(*engine_);
  for (std::size_t i = 0; i < requests.size(); ++i) requests[i].uid = i;
  ASSERT_TRUE(batch.insert(requests).ok());
  const auto heard = hear_all(batch);
  for (std::size_t i = 0; i < wanted.size(); ++i) expect_same(heard.at(i), wanted[i]);
}

TEST_F(Batch, RequestsComeAndGoWhileOthersRun) {
  const BatchRequest first = request(40, 60);
  const BatchRequest second = request(20, 10);
  const Heard wanted_first = alone(first);
  const Heard wanted_second = alone(second);
  BatchGenerator batch(*engine_);
  const std::uint64_t a = batch.insert({first}).value().front();
  std::map<std::uint64_t, Heard> heard;
  for (int i = 0; i < 5; ++i) hear(batch.next(), heard);
  const std::uint64_t b = batch.insert({second}).value().front();
  const std::uint64_t dropped = batch.insert({request(50, 1000)}).value().front();
  for (int i = 0; i < 3; ++i) hear(batch.next(), heard);
  EXPECT_TRUE(batch.remove(dropped).ok());
  EXPECT_EQ(batch.remove(dropped).error().code, ErrorCode::not_found);
  heard.erase(dropped);
  for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) hear(responses, heard);
  EXPECT_EQ(heard.size(), 2U) << "nothing comes of what was removed";
  expect_same(heard[a], wanted_first);
  expect_same(heard[b], wanted_second);
}

TEST_F(Batch, EachCallGivesOneResponseOfARequest) {
  BatchGenerator batch(*engine_);
  ASSERT_TRUE(batch.insert({request(10, 6), request(12, 6), request(14, 6)}).ok());
  int calls = 0;
  for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
    EXPECT_LE(responses.size(), 3U);
    ++calls;
  }
  EXPECT_GE(calls, 1);
  EXPECT_TRUE(batch.next().empty());
}

// A reader that does not come holds its own request up, not the others, and the engine sleeps meanwhile.
TEST_F(Batch, ASlowReaderIsWaitedForAndHoldsNobodyUp) {
  BatchGenerator batch(*engine_);
  BatchRequest endless = request(10, 400);
  int drawn = 0;
  endless.options.logits_processor = [&drawn](std::span<const TokenId>, std::span<float> logits) {
    ++drawn;
    logits[7] = 100.0F;
  };
  ASSERT_TRUE(batch.insert({endless}).ok());
  BatchRequest other = request(30, 50);
  EXPECT_TRUE(engine_->generate(other.prompt, other.options, {}).ok());
  int ahead = 0;
  engine_->scheduler().on_engine_thread([&](KvCache&) { ahead = drawn; });
  EXPECT_LE(ahead, 16);
  const auto heard = hear_all(batch);
  EXPECT_EQ(heard.at(0).ids, std::vector<TokenId>(400, 7));
  EXPECT_EQ(heard.at(0).finish, FinishReason::length);
}

TEST_F(Batch, WhatARequestSharesWithOthersIsReused) {
  engine_->reset_cache();
  BatchGenerator batch(*engine_);
  const BatchRequest one = request(100, 4);
  std::vector<BatchRequest> requests(5, one);
  ASSERT_TRUE(batch.insert(std::move(requests)).ok());
  int prefilled = 0;
  for (const auto& [uid, heard] : hear_all(batch)) {
    EXPECT_EQ(heard.usage.reused_tokens + heard.usage.prefilled_tokens, 100);
    prefilled += heard.usage.prefilled_tokens;
  }
  EXPECT_LE(prefilled, 100 + 4 * 16) << "once, and the last block of each";
}

TEST_F(Batch, WhatIsImpossibleIsSaidAndNothingEnters) {
  BatchGenerator batch(*engine_);
  EXPECT_EQ(batch.insert({request(4, 2), BatchRequest{}}).error().code, ErrorCode::invalid_argument);
  BatchRequest twice = request(4, 2);
  twice.uid = 9;
  EXPECT_NE(batch.insert({twice, twice}).error().message.find("uid 9"), std::string::npos);
  EXPECT_TRUE(batch.next().empty());
  ASSERT_TRUE(batch.insert({twice}).ok());
  EXPECT_FALSE(batch.insert({twice}).ok());
  twice.uid.reset();
  EXPECT_EQ(batch.insert({twice}).value().front(), 0U);
  EXPECT_EQ(hear_all(batch).size(), 2U);
  EXPECT_TRUE(batch.insert({twice}).ok()) << "an ended request leaves its uid";
}

TEST_F(Batch, AProcessorThatFailsEndsItsRequestAlone) {
  BatchGenerator batch(*engine_);
  BatchRequest throws = request(5, 20);
  throws.options.logits_processor = [](std::span<const TokenId> tokens, std::span<float>) {
    if (tokens.size() > 8) throw std::runtime_error("no more");
  };
  BatchRequest spoils = request(6, 20);
  spoils.options.logits_processor = [](std::span<const TokenId>, std::span<float> logits) {
    logits[0] = std::numeric_limits<float>::quiet_NaN();
  };
  const BatchRequest good = request(7, 12);
  ASSERT_TRUE(batch.insert({throws, spoils, good}).ok());
  auto heard = hear_all(batch);
  EXPECT_EQ(heard[0].finish, FinishReason::error);
  EXPECT_EQ(heard[0].ids.size(), 4U);
  ASSERT_TRUE(heard[0].error);
  EXPECT_EQ(heard[1].finish, FinishReason::error);
  EXPECT_NE(heard[2].finish, FinishReason::error);
  EXPECT_EQ(engine_->generate(throws.prompt, throws.options, {}).error().code, ErrorCode::invalid_argument);
}

TEST_F(Batch, WhereEveryTokenIsForbiddenTheReplyEndsWithASentence) {
  BatchRequest biased = request(5, 20);
  for (TokenId id = 0; id < 264; ++id) {
    biased.options.sampling.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  }
  BatchRequest processed = request(6, 20);
  processed.options.logits_processor = [](std::span<const TokenId> tokens, std::span<float> logits) {
    if (tokens.size() > 8) {
      std::fill(logits.begin(), logits.end(), std::numeric_limits<float>::lowest());
    }
  };
  const std::size_t prompt = processed.prompt.size();
  BatchGenerator batch(*engine_);
  ASSERT_TRUE(batch.insert({biased, processed}).ok());
  auto heard = hear_all(batch);
  EXPECT_TRUE(heard[0].ids.empty());
  EXPECT_EQ(heard[1].ids.size(), 9 - prompt);
  for (const auto uid : {0U, 1U}) {
    EXPECT_EQ(heard[uid].finish, FinishReason::error);
    ASSERT_TRUE(heard[uid].error);
    EXPECT_NE(heard[uid].error->message.find("every token is forbidden"), std::string::npos);
  }
  const auto reply = engine_->generate(biased.prompt, biased.options, {});
  ASSERT_FALSE(reply.ok());
  EXPECT_NE(reply.error().message.find("every token is forbidden"), std::string::npos);
}

TEST_F(Batch, AProcessorSeesTheTokensSoFar) {
  BatchRequest counts = request(5, 6);
  const auto prompt = counts.prompt;
  counts.options.logits_processor = [&](std::span<const TokenId> tokens, std::span<float> logits) {
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), tokens.begin()));
    logits[tokens.size()] = 1000.0F;
  };
  const auto reply = engine_->generate(counts.prompt, counts.options, {});
  EXPECT_EQ(reply.value().ids, (std::vector<TokenId>{5, 6, 7, 8, 9, 10}));
}

TEST_F(Batch, WhatIsChosenBesideOthersIsWhatTheEngineThreadChooses) {
  BatchGenerator batch(*engine_);
  std::vector<BatchRequest> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(request(20, 8));
    GenerateOptions& options = requests.back().options;
    options.logprobs = true;
    options.sampling.temperature = i % 2 == 0 ? 0.0F : 0.9F;
    options.sampling.top_p = 0.9F;
    options.sampling.seed = static_cast<std::uint64_t>(i);
    options.sampling.logit_bias = {{3, -2.0F}};
  }
  ASSERT_TRUE(batch.insert(requests).ok());
  const auto heard = hear_all(batch);
  // With a processor, even one that changes nothing, all is done where it may run.
  for (BatchRequest& each : requests) each.options.logits_processor = [](auto, auto) {};
  ASSERT_TRUE(batch.insert(requests).ok());
  const auto wanted = hear_all(batch);
  for (std::uint64_t uid = 0; uid < requests.size(); ++uid) {
    EXPECT_EQ(heard.at(uid).ids, wanted.at(uid + requests.size()).ids);
    EXPECT_EQ(heard.at(uid).logprobs, wanted.at(uid + requests.size()).logprobs);
  }
}

TEST_F(Batch, WhatARemovedRequestHadToTellIsForgotten) {
  BatchGenerator batch(*engine_);
  const auto uids = batch.insert({request(20, 10), request(20, 60)}).value();
  (void)batch.next();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // both are ahead of their reader
  ASSERT_TRUE(batch.remove(uids[0]).ok());
  const auto heard = hear_all(batch);
  ASSERT_EQ(heard.size(), 1U);
  EXPECT_TRUE(heard.at(uids[1]).finish);
}

TEST_F(Batch, DroppingABatchEndsItsRequests) {
  {
    BatchGenerator batch(*engine_);
    ASSERT_TRUE(batch.insert({request(10, 1000), request(200, 1000)}).ok());
    EXPECT_FALSE(batch.next().empty());
  }
  const BatchRequest after = request(8, 3);
  EXPECT_TRUE(engine_->generate(after.prompt, after.options, {}).ok());
  check_cache(*engine_);
}

TEST_F(Batch, ManyComeAndGoAtRandomFromTwoThreads) {
  BatchGenerator batch(*engine_);
  std::thread inserter([&] {
    std::mt19937 random(5);
    for (int i = 0; i < 60; ++i) {
      BatchRequest made{.prompt = random_tokens(random, 1 + static_cast<int>(random() % 60))};
      made.options.max_tokens = 1 + static_cast<int>(random() % 20);
      const auto uids = batch.insert({made});
      ASSERT_TRUE(uids.ok());
      if (random() % 4 == 0) (void)batch.remove(uids.value().front());
    }
  });
  std::map<std::uint64_t, int> ends;
  const auto read = [&] {
    const auto responses = batch.next();
    for (const BatchResponse& response : responses) ends[response.uid] += response.finish_reason ? 1 : 0;
    return !responses.empty();
  };
  for (int i = 0; i < 100; ++i) read();
  inserter.join();
  while (read()) {
  }
  for (const auto& [uid, count] : ends) EXPECT_LE(count, 1) << uid;
  EXPECT_GT(ends.size(), 20U);
  check_cache(*engine_);
}

// --- Caches ---

class BatchCaches : public Batch {
 protected:
  // The last response of the only request.
  static BatchResponse last(BatchGenerator& batch, std::vector<TokenId>* ids = nullptr) {
    BatchResponse last;
    for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
      last = responses.back();
      if (ids != nullptr && last.token) ids->push_back(*last.token);
    }
    return last;
  }
  static std::vector<TokenId> joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
};

TEST_F(BatchCaches, TheEndComesWithTheCacheOfPromptAndReply) {
  const BatchRequest first = request(37, 10);
  const BatchRequest more = request(5, 8);
  BatchGenerator batch(*engine_);
  std::vector<TokenId> ids;
  ASSERT_TRUE(batch.insert({first}).ok());
  BatchResponse end = last(batch, &ids);
  ASSERT_TRUE(end.cache) << end.cache_refusal;
  EXPECT_EQ(end.cache->size(), 37 + 9) << "the last token has no K/V";
  std::vector<TokenId> computed = joined(first.prompt, ids);
  computed.resize(46);
  EXPECT_TRUE(std::ranges::equal(end.cache->tokens(), computed));

  engine_->reset_cache();  // what is kept stays
  BatchRequest next = more;
  next.prompt = joined(joined(first.prompt, ids), more.prompt);
  next.cache = *end.cache;
  ASSERT_TRUE(batch.insert({next}).ok());
  std::vector<TokenId> continued;
  const BatchResponse told = last(batch, &continued);
  EXPECT_EQ(told.usage.reused_tokens, 46);
  EXPECT_EQ(told.usage.prefilled_tokens, 6);
  next.cache = {};
  end.cache.reset();
  const Heard wanted = alone(next);
  EXPECT_TRUE(std::equal(wanted.ids.begin(), wanted.ids.end(), continued.begin()));
  check_cache(*engine_);
}

TEST_F(BatchCaches, APromptThatTheCacheContainsIsComputedForItsLastTokenAlone) {
  BatchGenerator batch(*engine_);
  const std::vector<TokenId> tokens = random_tokens(random_, 70);
  BatchRequest inner = request(1, 5);
  inner.prompt.assign(tokens.begin(), tokens.begin() + 45);
  const Heard wanted = alone(inner);
  inner.cache = PromptCache::make(*engine_, tokens).value();
  engine_->reset_cache();
  ASSERT_TRUE(batch.insert({inner}).ok());
  std::vector<TokenId> ids;
  const BatchResponse told = last(batch, &ids);
  EXPECT_EQ(told.usage.reused_tokens, 44);
  EXPECT_EQ(told.usage.prefilled_tokens, 1);
  EXPECT_EQ(told.reuse.stopped, Stopped::end);
  EXPECT_TRUE(std::equal(wanted.ids.begin(), wanted.ids.end(), ids.begin()));
}

TEST_F(BatchCaches, ACacheOfOtherTokensIsUsedAsFarAsTheyAgree) {
  BatchGenerator batch(*engine_);
  std::vector<TokenId> tokens = random_tokens(random_, 70);
  BatchRequest other = request(1, 5);
  other.prompt = tokens;
  other.prompt[41] = (other.prompt[41] + 1) % 264;
  const Heard wanted = alone(other);
  other.cache = PromptCache::make(*engine_, tokens).value();
  engine_->reset_cache();
  ASSERT_TRUE(batch.insert({other}).ok());
  std::vector<TokenId> ids;
  const BatchResponse told = last(batch, &ids);
  EXPECT_EQ(told.usage.reused_tokens, 41);
  EXPECT_EQ(told.reuse.at, 41);
  EXPECT_EQ(told.reuse.stopped, Stopped::diverged);
  EXPECT_TRUE(std::equal(wanted.ids.begin(), wanted.ids.end(), ids.begin()));
}

TEST_F(BatchCaches, IsExtractedWhileQueuedPrefillingAndDecoding) {
  BatchGenerator batch(*engine_);
  BatchRequest runs = request(600, 30);
  runs.options.chunk = 16;  // so that the first calls find it on its way
  const Heard wanted = alone(runs);
  engine_->reset_cache();
  const std::uint64_t uid = batch.insert({runs}).value().front();
  int before = -1;
  std::vector<TokenId> ids;
  std::optional<BatchResponse> end;
  while (!end) {
    auto cache = batch.extract_cache(uid);
    if (cache.ok()) {
      EXPECT_GE(cache->size(), before);
      before = cache->size();
      const auto all = joined(runs.prompt, wanted.ids);
      ASSERT_LE(cache->tokens().size(), all.size());
      EXPECT_TRUE(std::equal(cache->tokens().begin(), cache->tokens().end(), all.begin()));
    } else {
      EXPECT_EQ(cache.error().code, ErrorCode::not_found);
    }
    if (before < 600) continue;  // extract again and again until the prompt is done
    for (BatchResponse& response : batch.next()) {
      if (response.token) ids.push_back(*response.token);
      if (response.finish_reason) end = std::move(response);
    }
  }
  EXPECT_TRUE(std::equal(wanted.ids.begin(), wanted.ids.end(), ids.begin())) << "extracting changed what followed";
  check_cache(*engine_);
}

TEST_F(BatchCaches, IsThereFromTheMomentOfInsertion) {
  BatchGenerator batch(*engine_);
  for (int i = 0; i < 100; ++i) {
    const auto uids = batch.insert({request(40, 60)});
    ASSERT_TRUE(uids.ok()) << uids.error().message;
    const auto removed = batch.remove_with_cache(uids.value().front());
    ASSERT_TRUE(removed.ok()) << removed.error().message;
  }
}

TEST_F(BatchCaches, IsTakenAlongWhenItsRequestIsRemoved) {
  BatchGenerator batch(*engine_);
  const std::uint64_t uid = batch.insert({request(50, 100)}).value().front();
  (void)batch.next();
  const auto cache = batch.remove_with_cache(uid);
  ASSERT_TRUE(cache.ok()) << cache.error().message;
  EXPECT_GE(cache->size(), 50);
  EXPECT_EQ(batch.remove_with_cache(uid).error().code, ErrorCode::not_found);
  EXPECT_TRUE(batch.next().empty());
}

TEST_F(BatchCaches, WhatCannotBeUsedIsRefused) {
  BatchGenerator batch(*engine_);
  const auto other = open_engine({.model = "qwen3-qknorm"});
  BatchRequest wrong = request(20, 5);
  wrong.cache = PromptCache::make(*other, random_tokens(random_, 20)).value();
  EXPECT_EQ(batch.insert({wrong}).error().code, ErrorCode::invalid_argument);
  wrong.cache = PromptCache::make(*engine_, wrong.prompt, "tenant").value();
  EXPECT_EQ(batch.insert({wrong}).error().code, ErrorCode::invalid_argument);
  wrong.options.salt = "tenant";
  wrong.options.reuse = false;
  EXPECT_EQ(batch.insert({wrong}).error().code, ErrorCode::invalid_argument);
  wrong.options.reuse = true;
  EXPECT_TRUE(batch.insert({wrong}).ok());
}

TEST_F(BatchCaches, OneThatDoesNotWantItsCacheGetsNone) {
  BatchGenerator batch(*engine_);
  BatchRequest plain = request(20, 5);
  plain.keep_cache = false;
  ASSERT_TRUE(batch.insert({plain}).ok());
  EXPECT_FALSE(last(batch).cache);
  BatchRequest private_one = request(20, 5);
  private_one.options.reuse = false;
  ASSERT_TRUE(batch.insert({private_one}).ok());
  const BatchResponse told = last(batch);
  EXPECT_FALSE(told.cache);
  EXPECT_FALSE(told.cache_refusal.empty());
}

}  // namespace
}  // namespace dalsegno
