// Whose turn it is: urgency, deadlines and shares of tenants. What a request gets depends on none of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <random>
#include <thread>
#include <utility>

#include "dalsegno/batch.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::open_engine;
using testing::random_tokens;
using testing::Recorder;
using testing::run;

// Notes the order in which requests end.
class Ending final : public Recorder {
 public:
  Ending(std::string name, std::vector<std::string>& ended, int steps = 0)
      : Recorder(steps), name_(std::move(name)), ended_(ended) {}
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    ++seen_;
    return Recorder::on_logits(position, logits, tokens);
  }
  void on_progress(int, int) override {
    if (at_first_progress) std::exchange(at_first_progress, nullptr)();
  }
  std::function<void()> at_first_progress;
  void on_finished(Result<FinishReason> outcome) override {
    ended_.push_back(name_);  // engine thread only
    Recorder::on_finished(std::move(outcome));
  }
  [[nodiscard]] int seen() const { return seen_; }
  bool wants_more() override { return !held_; }
  // Its reader is behind from the first token on.
  void hold() { held_ = true; }
  void let_go() {
    held_ = false;
    resume();
  }

 private:
  const std::string name_;
  std::vector<std::string>& ended_;
  std::atomic<int> seen_{0};
  std::atomic<bool> held_{false};
};

class SchedulingTest : public ::testing::Test {
 protected:
  ~SchedulingTest() override {
    check_cache(*engine_);
    give_room_back();
  }

  struct Wish {
    std::string name;
    int tokens = 0;
    Scheduling scheduling{};
    std::string salt{};
    int steps = 0;
  };
  Work work(const Wish& wish) {
    auto prompt = random_tokens(random_, wish.tokens);
    requests_.push_back(std::make_shared<Ending>(wish.name, ended_, wish.steps));
    prompts_.push_back(prompt);
    Work made{requests_.back(), std::move(prompt), wish.tokens - 1};
    made.salt = wish.salt;
    made.scheduling = wish.scheduling;
    return made;
  }
  void submit(const std::vector<Wish>& wishes) {
    std::vector<Work> all;
    for (const Wish& wish : wishes) all.push_back(work(wish));
    engine_->scheduler().submit(std::move(all));
  }
  // One that holds so much room, and nothing else happens, until it is let go.
  void submit_held(int tokens) {
    std::vector<Work> one;
    one.push_back(work({"held", tokens, {}, {}, 100'000}));
    requests_.back()->hold();
    engine_->scheduler().submit(std::move(one));
    while (requests_.back()->seen() == 0) std::this_thread::yield();
  }
  // Waits for all; the bits must be those that each gets alone.
  void expect_all_end() {
    for (const auto& each : requests_) EXPECT_TRUE(each->wait().ok());
    give_room_back();
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      const int size = static_cast<int>(prompts_[i].size());
      const int steps = static_cast<int>(requests_[i]->reply.size());
      const auto reference = run(*engine_, prompts_[i], {.from = size - 1, .reuse = false, .steps = steps});
      EXPECT_EQ(requests_[i]->reply, reference->reply) << i;
      EXPECT_EQ(requests_[i]->logits(), reference->logits()) << i;
    }
  }
  // All pages but those that so many tokens take belong to a sequence that does nothing.
  void leave_room(int tokens) {
    engine_->scheduler().on_engine_thread([&](KvCache& cache) {
      const auto pages = [&](int count) {
        return cache.layout().pages_for(count * kBlockTokens, count * kBlockTokens);
      };
      const std::uint64_t spare = cache.layout().pages_for(tokens, 1);
      int blocks = 0;
      while (pages(blocks + 1) + spare <= cache.stats().pages_limit) ++blocks;
      ballast_ = cache.open_private();
      ASSERT_TRUE(cache.extend(ballast_, blocks * kBlockTokens).ok());
    });
  }

  void give_room_back() {
    engine_->scheduler().on_engine_thread([this](KvCache& cache) {
      if (ballast_.is_open()) cache.discard(std::move(ballast_));
    });
  }

  std::mt19937 random_{11};
  std::unique_ptr<LocalEngine> engine_ = open_engine();
  BlockTable ballast_;
  std::vector<std::string> ended_;
  std::vector<std::shared_ptr<Ending>> requests_;
  std::vector<std::vector<TokenId>> prompts_;
};

TEST_F(SchedulingTest, PromptsAreComputedInTheirOrder) {
  submit({{"patient", 700, {.urgency = -1}},
          {"first", 700},
          {"hurried", 700, {.deadline_seconds = 50}},
          {"urgent", 700, {.urgency = 1}}});
  expect_all_end();
  EXPECT_EQ(ended_, (std::vector<std::string>{"urgent", "hurried", "first", "patient"}));
}

TEST_F(SchedulingTest, ATenantWithManyPromptsDoesNotDelayAnothersSingleOneByAllOfThem) {
  for (const int room : {0, 1000}) {
    if (room > 0) leave_room(room);
    ended_.clear();
    std::vector<Wish> wishes(100, {.name = "many", .tokens = 200, .salt = "greedy"});
    wishes.push_back({.name = "one", .tokens = 200, .salt = "modest"});
    submit(wishes);
    for (; !requests_.empty(); requests_.pop_back()) EXPECT_TRUE(requests_.back()->wait().ok());
    const auto place = std::ranges::find(ended_, "one") - ended_.begin();
    // A quantum, and what else is in the steps in which it ends and in which the other is computed.
    EXPECT_LE(place * 200, static_cast<int>(FairOrder::kQuantum) + 2 * 512 + 200) << room;
  }
}

TEST_F(SchedulingTest, WhenRoomEndsTheLessUrgentGivesWayThoughItIsOlder) {
  leave_room(500);
  submit({{"old", 100, {}, {}, 250}, {"urgent", 100, {.urgency = 1}, {}, 250}});
  expect_all_end();
  EXPECT_EQ(ended_, (std::vector<std::string>{"urgent", "old"}));
}

TEST_F(SchedulingTest, AnUrgentRequestTakesTheRoomOfWhatRuns) {
  leave_room(600);
  submit_held(350);
  submit({{"urgent", 350, {.urgency = 1}, {}, 2}});
  EXPECT_TRUE(requests_.back()->wait().ok());
  requests_.front()->let_go();
  while (requests_.front()->seen() < 20) std::this_thread::yield();
  requests_.front()->cancel();
  EXPECT_TRUE(requests_.front()->wait().ok());
  EXPECT_EQ(ended_, (std::vector<std::string>{"urgent", "held"}));
}

TEST_F(SchedulingTest, ALargeRequestWhoseTurnItIsIsNotOvertaken) {
  leave_room(800);
  std::vector<Wish> wishes(8, {.name = "small", .tokens = 90, .steps = 3});
  wishes.insert(wishes.begin() + 4, {.name = "large", .tokens = 700});
  submit(wishes);
  expect_all_end();
  EXPECT_EQ(ended_[4], "large");
}

// While a reply goes on, a step takes one block of a prompt: of the leader's, for the sake of whom it leads.
TEST_F(SchedulingTest, WhoIsWaitedForIsAsUrgentAsWhoWaits) {
  engine_.reset();
  engine_ = open_engine({.step_ms = 0});
  const auto reply = std::make_shared<Recorder>(1 << 20);
  Work beside{reply, random_tokens(random_, 5), 4};
  Work leader = work({"leader", 900});
  Work follower{std::make_shared<Ending>("follower", ended_), leader.tokens, 899};
  follower.tokens.push_back(1);
  follower.scheduling.urgency = 2;
  Work other = work({"other", 900, {.urgency = 1}});
  const std::vector<std::shared_ptr<Request>> all{leader.request, follower.request, other.request};
  std::vector<Work> late;
  late.push_back(std::move(other));
  late.push_back(std::move(follower));
  requests_.front()->at_first_progress = [&] { engine_->scheduler().submit(std::move(late)); };
  std::vector<Work> early;
  early.push_back(std::move(beside));
  early.push_back(std::move(leader));
  engine_->scheduler().submit(std::move(early));
  for (const auto& each : all) EXPECT_TRUE(std::static_pointer_cast<Ending>(each)->wait().ok());
  reply->cancel();
  EXPECT_TRUE(reply->wait().ok());
  EXPECT_EQ(ended_, (std::vector<std::string>{"leader", "follower", "other"}));
}

FinishReason ended_by(Ending& request) {
  const Result<FinishReason> end = request.wait();
  EXPECT_TRUE(end.ok());
  return end.ok() ? end.value() : FinishReason::error;
}

// Of 5 ms: however fast the steps are, what comes after the first is late.
void sleep_past_deadline() {
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

TEST_F(SchedulingTest, ADeadlineEndsWhatWaitsForRoom) {
  leave_room(600);
  submit_held(350);
  submit({{"waits", 350, {.deadline_seconds = 0.05}}});
  EXPECT_EQ(ended_by(*requests_.back()), FinishReason::deadline);
  EXPECT_EQ(requests_.back()->seen(), 0);
  requests_.front()->cancel();
  EXPECT_EQ(ended_by(*requests_.front()), FinishReason::cancelled);
}

TEST_F(SchedulingTest, ADeadlineEndsWhatStandsAside) {
  Work leader = work({"leader", 2000});
  Work follower{std::make_shared<Ending>("follower", ended_), leader.tokens, 1999};
  leader.chunk = 1;
  follower.tokens.push_back(1);
  follower.scheduling.deadline_seconds = 0.005;
  requests_.push_back(std::static_pointer_cast<Ending>(follower.request));
  std::vector<Work> late;
  late.push_back(std::move(follower));
  requests_[0]->at_first_progress = [&] {
    engine_->scheduler().submit(std::move(late));
    sleep_past_deadline();
  };
  engine_->scheduler().submit({std::move(leader)});
  EXPECT_EQ(ended_by(*requests_[1]), FinishReason::deadline);
  requests_[0]->cancel();
  EXPECT_TRUE(requests_[0]->wait().ok());
  EXPECT_EQ(ended_.front(), "follower");
}

TEST_F(SchedulingTest, ADeadlineEndsWhatPrefills) {
  Work slow = work({"slow", 2000});
  slow.chunk = 1;
  slow.scheduling.deadline_seconds = 0.005;
  requests_[0]->at_first_progress = sleep_past_deadline;
  engine_->scheduler().submit({std::move(slow)});
  EXPECT_EQ(ended_by(*requests_[0]), FinishReason::deadline);
}

// Passes its deadline in the middle of the third token.
GenerateOptions late_after_three(const std::shared_ptr<int>& drawn) {
  GenerateOptions options{.max_tokens = 100, .scheduling = {.deadline_seconds = 1}};
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1200);
  options.logits_processor = [=](std::span<const TokenId>, std::span<float> logits) {
    logits[static_cast<std::size_t>('a' + *drawn)] = 1000;
    if (++*drawn == 3) std::this_thread::sleep_until(until);
  };
  return options;
}

TEST_F(SchedulingTest, ADeadlineLosesNothingOfTheReply) {
  const auto drawn = std::make_shared<int>(0);
  const auto prompt = random_tokens(random_, 20);
  std::string heard;
  const auto reply = engine_->generate(prompt, late_after_three(drawn),
                                       {[&](std::string_view text) {
                                          heard += text;
                                          return true;
                                        },
                                        {}});
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->finish_reason, FinishReason::deadline);
  EXPECT_STREQ(name(reply->finish_reason), "deadline");
  EXPECT_EQ(reply->ids, (std::vector<TokenId>{'a', 'b', 'c'}));
  EXPECT_EQ(reply->text, "abc");
  EXPECT_EQ(heard, reply->text);
  EXPECT_EQ(reply->usage.prefilled_tokens, 20);
  EXPECT_GE(engine_->explain(prompt, "")->reused_tokens, 19) << "and what was computed stays cached";
}

TEST_F(SchedulingTest, ADeadlineThatPassesAtOnceLeavesAnEmptyReply) {
  GenerateOptions options{.scheduling = {.deadline_seconds = 1e-9}};
  const auto reply = engine_->generate(random_tokens(random_, 20), options, {});
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->finish_reason, FinishReason::deadline);
  EXPECT_TRUE(reply->ids.empty());
}

TEST_F(SchedulingTest, ADeadlineEndsAReplyWhoseReaderDoesNotCome) {
  BatchGenerator batch(*engine_);
  BatchRequest request{.prompt = random_tokens(random_, 20)};
  request.options.max_tokens = 1000;
  request.options.scheduling.deadline_seconds = 0.5;
  request.options.logits_processor = [](std::span<const TokenId>, std::span<float> logits) { logits[7] = 1000; };
  ASSERT_TRUE(batch.insert({request}).ok());
  for (bool ended = false; !ended;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    // Its cache is kept at its end.
    engine_->scheduler().on_engine_thread([&](KvCache& cache) { ended = cache.stats().pages_pinned > 0; });
  }
  BatchResponse end;
  int tokens = 0;
  for (auto heard = batch.next(); !heard.empty(); heard = batch.next()) {
    end = heard.front();
    tokens += end.token ? 1 : 0;
  }
  EXPECT_EQ(end.finish_reason, FinishReason::deadline);
  EXPECT_LE(tokens, 16);
  EXPECT_EQ(tokens, end.usage.reply_tokens);
  ASSERT_TRUE(end.cache) << end.cache_refusal;
  EXPECT_EQ(static_cast<int>(end.cache->tokens().size()), 20 + tokens - 1);
}

TEST_F(SchedulingTest, WhatIsImpossibleIsRefused) {
  const auto prompt = random_tokens(random_, 5);
  for (const Scheduling& wrong :
       {Scheduling{.urgency = 101}, Scheduling{.urgency = -101}, Scheduling{.deadline_seconds = -1},
        Scheduling{.deadline_seconds = std::numeric_limits<double>::quiet_NaN()}}) {
    EXPECT_EQ(engine_->generate(prompt, {.scheduling = wrong}, {}).error().code, ErrorCode::invalid_argument);
  }
  EXPECT_TRUE(engine_->generate(prompt, {.max_tokens = 1, .scheduling = {100, 1e300}}, {}).ok());
}

}  // namespace
}  // namespace dalsegno
