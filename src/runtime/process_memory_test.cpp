#include "runtime/process_memory.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "dalsegno/session.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_engine;
using testing::random_tokens;
using testing::run;

constexpr std::uint64_t kMiB = 1ULL << 20;

// Until what an ended request set off is through: the first call follows its end, the second what that posted.
void settle(LocalEngine& engine) {
  for (int i = 0; i < 2; ++i) engine.scheduler().on_engine_thread([](KvCache&) {});
}

std::uint64_t kv_bytes() {
  const auto report = memory_report();
  return report ? report->kv : 0;
}

TEST(MemoryLimits, FollowTheDocumentedFormulas) {
  const MachineMemory machine{.available = 8000 * kMiB, .total = 16000 * kMiB};
  const auto expect = [&](const MemoryOptions& options, std::uint64_t active, std::uint64_t idle) {
    const MemoryLimits limits = memory_limits(options, machine);
    EXPECT_EQ(limits.active, active * kMiB);
    EXPECT_EQ(limits.idle, idle * kMiB);
  };
  expect({}, 4000, 2000);
  expect({.preset = MemoryPreset::idle}, 2000, 0);
  expect({.preset = MemoryPreset::unconstrained}, 16000, 16000);
  expect({.bytes = 300 * kMiB}, 300, 300);
  expect({.bytes = 300 * kMiB, .idle_bytes = 100 * kMiB}, 300, 100);
  expect({.bytes = 300 * kMiB, .idle_bytes = 0}, 300, 0);
  expect({.idle_bytes = 0}, 4000, 0);
  expect({.preset = MemoryPreset::idle, .bytes = 300 * kMiB}, 300, 0);
  EXPECT_EQ(memory_limits({}, {}).active, 256 * kMiB) << "no less, whatever is available";
}

TEST(ProcessMemory, TheFirstConfigurationHoldsUntilTheLastEngineCloses) {
  EXPECT_FALSE(memory_report().has_value());
  auto first = open_engine({.memory_bytes = 200 * kMiB});
  auto second = open_engine({.model = "llama-bf16", .memory_bytes = 200 * kMiB});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(memory_report()->limit, 200 * kMiB);
  EXPECT_EQ(memory_report()->engines, 2);

  EngineOptions options;
  options.model_path = testing::tiny_model("llama-gqa");
  options.memory.bytes = 300 * kMiB;
  const auto refused = Engine::open(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused.error().message,
            "the process's memory budget is set to 200.0 MiB, but this engine asks for 300.0 MiB; ask for the same, or "
            "close the other engines first");

  first.reset();
  EXPECT_FALSE(Engine::open(options).ok());
  second.reset();
  EXPECT_FALSE(memory_report().has_value());
  EXPECT_TRUE(Engine::open(options).ok());
}

TEST(ProcessMemory, AnIdleLimitAboveTheBudgetIsRefused) {
  const auto memory = ProcessMemory::join({.bytes = kMiB, .idle_bytes = 2 * kMiB});
  ASSERT_FALSE(memory.ok());
  EXPECT_NE(memory.error().message.find("2.0 MiB"), std::string::npos) << memory.error().message;
}

TEST(ProcessMemory, EnginesShareOneLedger) {
  const auto first = open_engine();
  const std::uint64_t alone = memory_report()->weights;
  const auto second = open_engine();
  EXPECT_EQ(memory_report()->weights, 2 * alone);
}

TEST(ProcessMemory, ShrinksToTheIdleLimitWhenTheLastRequestEnds) {
  const auto engine = open_engine({.idle_bytes = 0});
  std::mt19937 random(1);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  run(*engine, prompt, {.from = 99});
  settle(*engine);
  EXPECT_EQ(kv_bytes(), 0U);
  EXPECT_FALSE(memory_report()->active);
  EXPECT_EQ(engine->explain(prompt, {})->reused_tokens, 0);
}

TEST(ProcessMemory, ExplainSeesWhatTheIdleLimitLeaves) {
  const auto engine = open_engine({.idle_bytes = 0});
  std::mt19937 random(1);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  for (int round = 0; round < 50; ++round) {
    run(*engine, prompt, {.from = 99});
    ASSERT_EQ(engine->explain(prompt, {})->reused_tokens, 0) << round;
  }
}

TEST(ProcessMemory, ASessionKeepsWhatIsCached) {
  const auto engine = open_engine({.idle_bytes = 1});
  std::mt19937 random(2);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  {
    const Session session(*engine);
    run(*engine, prompt, {.from = 99});
    settle(*engine);
    EXPECT_GT(kv_bytes(), 0U);
    EXPECT_TRUE(memory_report()->active);
    EXPECT_EQ(engine->explain(prompt, {})->reused_tokens, 99);
  }
  settle(*engine);
  EXPECT_EQ(kv_bytes(), 0U);
}

TEST(ProcessMemory, WithinTheIdleLimitEverythingStays) {
  const auto engine = open_engine();
  std::mt19937 random(3);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  run(*engine, prompt, {.from = 99});
  settle(*engine);
  EXPECT_EQ(engine->explain(prompt, {})->reused_tokens, 99);
}

TEST(ProcessMemory, ReleaseAllFreesWhatIsCachedAndChangesNoBit) {
  const auto first = open_engine();
  const auto second = open_engine();
  std::mt19937 random(4);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  const auto before = run(*first, prompt);
  run(*second, prompt);
  EXPECT_GT(kv_bytes(), 0U);
  release_all();
  EXPECT_EQ(kv_bytes(), 0U);
  const auto after = run(*first, prompt);
  EXPECT_EQ(before->logits(), after->logits());
  testing::check_cache(*first);
}

TEST(ProcessMemory, ReleaseAllWhileRequestsRunChangesNoBit) {
  const auto engine = open_engine();
  std::mt19937 random(5);
  const std::vector<TokenId> prompt = random_tokens(random, 40);
  const auto reference = run(*engine, prompt, {.from = 39, .reuse = false, .steps = 200});
  auto recorder = std::make_shared<testing::Recorder>(200);
  std::vector<Work> work;
  work.push_back({recorder, prompt, 39, 512, true});
  engine->scheduler().submit(std::move(work));
  for (int i = 0; i < 20; ++i) release_all();
  ASSERT_TRUE(recorder->wait().ok());
  EXPECT_EQ(recorder->logits(), reference->logits());
}

// Takes all but `left` bytes of the budget, as another engine's weights would.
Reservation ballast(std::uint64_t left) {
  MemoryBudget& budget = ProcessMemory::current()->budget();
  auto taken = budget.reserve(MemoryKind::weights, budget.free_bytes() - left, "ballast");
  EXPECT_TRUE(taken.ok());
  return std::move(taken).value();
}

std::uint64_t bytes_for(LocalEngine& engine, int tokens) {
  std::uint64_t bytes = 0;
  engine.scheduler().on_engine_thread([&](KvCache& cache) { bytes = cache.bytes_for(tokens, 512); });
  return bytes;
}

TEST(Budget, APromptThatCanNeverFitIsRefusedWithWhatItNeedsAndWhatWouldFit) {
  auto roomy = open_engine();
  const std::uint64_t needed = bytes_for(*roomy, 1000);
  const std::uint64_t loaded = memory_report()->weights + memory_report()->work;
  roomy.reset();
  const auto engine = open_engine({.memory_bytes = loaded + needed});
  ASSERT_TRUE(engine);
  EXPECT_LT(engine->context(), 1000);
  std::mt19937 random(7);
  const auto refused = engine->generate(random_tokens(random, 1000), {}, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  for (const std::string& part : {std::string("1000 tokens need " + human_bytes(needed)),
                                  "hold " + std::to_string(engine->context()) + " tokens", std::string("--memory")}) {
    EXPECT_NE(refused.error().message.find(part), std::string::npos) << refused.error().message;
  }
  // What just fits runs to its end.
  const int fits = engine->context();
  const auto reply = engine->generate(random_tokens(random, fits - 20), {.max_tokens = 1000}, {});
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_LE(reply->usage.reply_tokens, 21);
}

TEST(Budget, AReplyThatCannotGoOnEndsWithLength) {
  const auto engine = open_engine();
  const Reservation taken = ballast(bytes_for(*engine, 64));
  std::mt19937 random(8);
  const std::vector<TokenId> prompt = random_tokens(random, 20);
  auto recorder = std::make_shared<testing::Recorder>(500);
  std::vector<Work> work;
  work.push_back({recorder, prompt, 19, 512, true});
  engine->scheduler().submit(std::move(work));
  const Result<FinishReason> end = recorder->wait();
  ASSERT_TRUE(end.ok()) << end.error().message;
  EXPECT_EQ(end.value(), FinishReason::length);
  EXPECT_EQ(recorder->reply.size(), 64U - 20 + 1);
  const auto refused = engine->generate(random_tokens(random, 100), {}, {});
  ASSERT_FALSE(refused.ok()) << "before its first token it is an error";
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  testing::check_cache(*engine);
}

TEST(Budget, WhatAnotherEngineCachesMakesWay) {
  const auto first = open_engine();
  const auto second = open_engine();
  const Reservation taken = ballast(bytes_for(*first, 160));
  std::mt19937 random(9);
  run(*first, random_tokens(random, 150), {.from = 149});
  EXPECT_GT(kv_bytes(), 0U);
  run(*second, random_tokens(random, 150), {.from = 149});
  run(*first, random_tokens(random, 150), {.from = 149});
}

// What they keep does not go away by waiting for it.
TEST(Budget, WhatAnotherEnginePinsIsSaidInsteadOfWaitedFor) {
  const auto first = open_engine();
  const auto second = open_engine();
  const Reservation taken = ballast(bytes_for(*first, 640));
  std::mt19937 random(9);
  auto pin = first->pin(random_tokens(random, 320), "");
  ASSERT_TRUE(pin.ok()) << pin.error().message;
  const std::vector<TokenId> prompt = random_tokens(random, 500);
  const auto refused = second->generate(prompt, {.max_tokens = 1}, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_NE(refused.error().message.find("other engines"), std::string::npos) << refused.error().message;
  pin->release();
  const auto reply = second->generate(prompt, {.max_tokens = 1}, {});
  EXPECT_TRUE(reply.ok()) << reply.error().message;
}

// Nor does what tables of the engine's own hold without a pin, such as the last, partial block of a cache.
TEST(Budget, WhatItsOwnTablesHoldIsNotWaitedForWhileAnotherEngineKeepsMore) {
  const auto first = open_engine();
  const auto second = open_engine();
  const Reservation taken = ballast(bytes_for(*first, 1280));
  std::mt19937 random(9);
  auto beginning = std::make_optional(ballast(bytes_for(*first, 320)));
  auto kept = first->pin(random_tokens(random, 300), "");
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  settle(*first);
  beginning.reset();
  BlockTable held;
  second->scheduler().on_engine_thread([&](KvCache& cache) {
    held = cache.open_private();
    while (cache.could_fit(cache.layout().pages_for(160, 160)) &&
           cache.extend(held, held.capacity() + kBlockTokens).ok()) {
    }
  });
  const auto recorder = std::make_shared<testing::Recorder>(1);
  std::vector<Work> work;
  work.push_back({recorder, random_tokens(random, 200), 199, 512, true});
  second->scheduler().submit(std::move(work));
  auto end = std::async(std::launch::async, [&] { return recorder->wait(); });
  const bool ended = end.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  if (!ended) recorder->cancel();
  const Result<FinishReason> outcome = end.get();
  EXPECT_TRUE(ended) << "it waited for what nobody gives up";
  EXPECT_FALSE(outcome.ok());
  second->scheduler().on_engine_thread([&](KvCache& cache) { cache.discard(std::move(held)); });
}

// A release is done by the engine that holds the pin; one that is slow to get round to it is waited for, also by a
// request that comes after another was refused.
TEST(Budget, WhatAnotherEngineIsAboutToReleaseIsWaitedFor) {
  const auto first = open_engine();
  const auto second = open_engine();
  const Reservation taken = ballast(bytes_for(*first, 640));
  std::mt19937 random(9);
  for (const bool refused_before : {false, true}) {
    auto pin = first->pin(random_tokens(random, 320), "");
    ASSERT_TRUE(pin.ok()) << pin.error().message;
    settle(*first);
    const std::vector<TokenId> prompt = random_tokens(random, 500);
    if (refused_before) {
      ASSERT_FALSE(second->generate(prompt, {.max_tokens = 1}, {}).ok());
    }
    std::promise<void> gate;
    first->scheduler().post([opened = gate.get_future().share()](KvCache&) { opened.wait(); });
    pin->release();
    auto reply = std::async(std::launch::async, [&] { return second->generate(prompt, {.max_tokens = 1}, {}); });
    EXPECT_EQ(reply.wait_for(std::chrono::milliseconds(400)), std::future_status::timeout);
    gate.set_value();
    const auto end = reply.get();
    EXPECT_TRUE(end.ok()) << end.error().message;
  }
}

TEST(Budget, AReplyThatGrowsIntoWhatAnotherEngineGivesUpGoesOn) {
  const auto first = open_engine();
  const auto second = open_engine();
  std::mt19937 random(9);
  const Reservation taken = ballast(bytes_for(*first, 640));
  auto beginning = std::make_optional(ballast(bytes_for(*first, 576)));
  auto pin = first->pin(random_tokens(random, 20), "");  // its extent takes what is left
  ASSERT_TRUE(pin.ok()) << pin.error().message;
  settle(*first);
  beginning.reset();
  std::promise<void> gate;
  first->scheduler().post([opened = gate.get_future().share()](KvCache&) { opened.wait(); });
  const auto recorder = std::make_shared<testing::Recorder>(200);
  std::vector<Work> work;
  work.push_back({recorder, random_tokens(random, 20), 19, 512, true});
  second->scheduler().submit(std::move(work));
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (second->scheduler().preemptions() == 0 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  ASSERT_GT(second->scheduler().preemptions(), 0U) << "it never wanted what the other holds";
  pin->release();
  gate.set_value();
  auto end = std::async(std::launch::async, [&] { return recorder->wait(); });
  const bool ended = end.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  if (!ended) recorder->cancel();
  const Result<FinishReason> reason = end.get();
  ASSERT_TRUE(reason.ok()) << reason.error().message;
  EXPECT_TRUE(ended) << "it slept on though there was room";
  EXPECT_EQ(recorder->reply.size(), 200U);
}

TEST(Budget, EnginesThatCompeteForMemoryBothComeToTheirEndWithTheSameBits) {
  const auto first = open_engine();
  const auto second = open_engine();
  std::mt19937 random(10);
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::shared_ptr<testing::Recorder>> references;
  for (int i = 0; i < 6; ++i) prompts.push_back(random_tokens(random, 40));
  for (const auto& prompt : prompts) references.push_back(run(*first, prompt, {.from = 39, .steps = 150}));
  release_all();
  const Reservation taken = ballast(bytes_for(*first, 300));
  std::vector<std::shared_ptr<testing::Recorder>> recorders;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    recorders.push_back(std::make_shared<testing::Recorder>(150));
    std::vector<Work> work;
    work.push_back({recorders.back(), prompts[i], 39, 512, true});
    (i % 2 == 0 ? first : second)->scheduler().submit(std::move(work));
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Result<FinishReason> end = recorders[i]->wait();
    ASSERT_TRUE(end.ok()) << end.error().message;
    EXPECT_EQ(recorders[i]->logits(), references[i]->logits());
  }
  testing::check_cache(*first);
  testing::check_cache(*second);
}

class Pressure : public ::testing::Test {
 protected:
  Pressure() { std::filesystem::create_directories(folder_); }
  ~Pressure() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& path, const std::string& text) const {
    std::ofstream(path + ".new") << text;
    std::filesystem::rename(path + ".new", path);
  }
  const std::string folder_ = ::testing::TempDir() + "dalsegno_pressure_" + std::to_string(getpid());
  const PressurePaths paths_{.events = folder_ + "/memory.events", .stall = folder_ + "/memory.pressure"};
};

TEST_F(Pressure, IsToldByEventsAndByStalls) {
  EXPECT_FALSE(PressureWatch(paths_).can_tell());
  write(paths_.events, "low 0\nhigh 3\nmax 1\noom 0\n");
  write(paths_.stall, "some avg10=0.50 avg60=99.00 avg300=0.00 total=5\nfull avg10=88.00 avg60=0 avg300=0 total=0\n");
  PressureWatch watch(paths_);
  EXPECT_TRUE(watch.can_tell());
  EXPECT_FALSE(watch.look()) << "what was before does not count";
  write(paths_.events, "low 0\nhigh 4\nmax 1\noom 0\n");
  EXPECT_TRUE(watch.look());
  EXPECT_FALSE(watch.look());
  write(paths_.events, "low 7\nhigh 4\nmax 2\noom 0\n");
  EXPECT_TRUE(watch.look());
  write(paths_.stall, "some avg10=12.50 avg60=0.00 avg300=0.00 total=5\n");
  EXPECT_TRUE(watch.look());
  EXPECT_TRUE(watch.look()) << "as long as it lasts";
}

TEST_F(Pressure, CutsDownWhatIsCached) {
  write(paths_.events, "high 0\nmax 0\n");
  const auto memory = ProcessMemory::join({.bytes = 256 * kMiB, .idle_bytes = 1}, {.paths = paths_, .interval_ms = 1});
  ASSERT_TRUE(memory.ok());
  const ProcessMemory::Use use = memory.value()->use();  // not idle: it is the pressure that cuts
  const auto engine = open_engine({.idle_bytes = 1});
  std::mt19937 random(6);
  const std::vector<TokenId> prompt = random_tokens(random, 100);
  run(*engine, prompt, {.from = 99});
  EXPECT_GT(kv_bytes(), 0U);
  write(paths_.events, "high 1\nmax 0\n");
  while (memory_report()->pressure == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  settle(*engine);
  EXPECT_EQ(kv_bytes(), 0U);
  EXPECT_EQ(memory_report()->pressure, 1U);
}

}  // namespace
}  // namespace dalsegno
