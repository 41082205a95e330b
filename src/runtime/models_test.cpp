#include "dalsegno/models.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <stop_token>
#include <thread>

#include "runtime/process_memory.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using EnginePtr = std::shared_ptr<Engine>;
using Acquired = Result<EnginePtr>;

constexpr std::uint64_t kMiB = 1ULL << 20;

EngineOptions model(const std::string& name) {
  EngineOptions options;
  options.model_path = testing::tiny_model(name);
  options.threads = 1;
  options.context = 512;
  options.memory.bytes = 512 * kMiB;
  return options;
}

std::string sentence(const Acquired& acquired) {
  return acquired.ok() ? "" : acquired.error().message;
}

// The reply that a model gives to the same few tokens.
std::vector<TokenId> reply_of(Engine& engine) {
  const std::vector<TokenId> prompt{5, 80, 3, 41, 200, 7, 19};
  const auto reply = engine.generate(prompt, {.max_tokens = 8}, {});
  EXPECT_TRUE(reply.ok());
  return reply.ok() ? reply->ids : std::vector<TokenId>();
}

// Counts what is opened, and holds it up while the gate is shut.
class Watched {
 public:
  ModelRegistryOptions options(int max_models, std::uint64_t max_bytes = 0) {
    return {.max_models = max_models,
            .max_bytes = max_bytes,
            .open = [this](const EngineOptions& how, const std::stop_token& cancel) { return open(how, cancel); },
            .clock = [this] { return std::chrono::steady_clock::time_point(std::chrono::seconds(++now)); }};
  }
  void shut() { set(false); }
  void lift() { set(true); }
  void wait_until_opening(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return opening_ >= count; });
  }
  int opens() {
    const std::lock_guard lock(mutex_);
    return opens_;
  }
  std::atomic<int> now{0};

 private:
  void set(bool is_open) {
    const std::lock_guard lock(mutex_);
    is_open_ = is_open;
    changed_.notify_all();
  }
  Result<std::unique_ptr<Engine>> open(const EngineOptions& how, const std::stop_token& cancel) {
    std::unique_lock lock(mutex_);
    ++opens_;
    ++opening_;
    changed_.notify_all();
    changed_.wait(lock, cancel, [&] { return is_open_; });
    --opening_;
    lock.unlock();
    return Engine::open(how, cancel);
  }
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool is_open_ = true;
  int opens_ = 0;
  int opening_ = 0;
};

std::vector<std::string> names(const ModelRegistry& registry) {
  std::vector<std::string> found;
  for (const LoadedModel& each : registry.report()) found.push_back(std::filesystem::path(each.path).stem());
  return found;
}

int users(const ModelRegistry& registry) {
  int count = 0;
  for (const LoadedModel& each : registry.report()) count += each.users;
  return count;
}

TEST(ModelRegistry, KeepsOneModelUnlessToldOtherwise) {
  ModelRegistry registry;
  {
    const Acquired first = registry.acquire(model("llama-gqa"));
    EXPECT_TRUE(first.ok()) << sentence(first);
  }
  EXPECT_THAT(names(registry), ElementsAre("llama-gqa"));
  {
    const Acquired second = registry.acquire(model("qwen2-bias"));
    EXPECT_TRUE(second.ok()) << sentence(second);
  }
  EXPECT_THAT(names(registry), ElementsAre("qwen2-bias"));
  EXPECT_EQ(memory_report()->engines, 1);
}

TEST(ModelRegistry, ClosesTheModelUsedLongestAgo) {
  Watched watched;
  ModelRegistry registry(watched.options(2));
  const auto use = [&](const char* name) { EXPECT_TRUE(registry.acquire(model(name)).ok()); };
  use("llama-gqa");
  use("qwen2-bias");
  use("llama-gqa");
  EXPECT_EQ(watched.opens(), 2) << "the third found it loaded";
  use("qwen3-qknorm");
  EXPECT_THAT(names(registry), ElementsAre("qwen3-qknorm", "llama-gqa"));
  {
    const Acquired held = registry.acquire(model("llama-gqa"));
    use("qwen3-qknorm");
  }
  use("qwen2-bias");
  EXPECT_THAT(names(registry), ElementsAre("qwen2-bias", "llama-gqa")) << "letting go is the latest use";
}

TEST(ModelRegistry, ReportsBytesUsersAndTheTimeOfTheLastUse) {
  Watched watched;
  ModelRegistry registry(watched.options(2));
  const Acquired held = registry.acquire(model("llama-gqa"));
  const Acquired again = registry.acquire(model("llama-gqa"));
  EXPECT_TRUE(registry.acquire(model("qwen2-bias")).ok());
  const int last = watched.now;
  const auto report = registry.report();
  ASSERT_EQ(report.size(), 2U);
  EXPECT_EQ(report[0].users, 0);
  EXPECT_EQ(report[0].last_used.time_since_epoch(), std::chrono::seconds(last));
  EXPECT_EQ(report[1].users, 2);
  EXPECT_LT(report[1].last_used, report[0].last_used);
  const auto memory = memory_report();
  EXPECT_EQ(report[0].bytes + report[1].bytes, memory->weights + memory->work);
}

TEST(ModelRegistry, AModelInUseIsNeverClosed) {
  ModelRegistry registry({.max_models = 2});
  const Acquired first = registry.acquire(model("llama-gqa"));
  const Acquired second = registry.acquire(model("qwen2-bias"));
  ASSERT_TRUE(first.ok() && second.ok());
  const Acquired third = registry.acquire(model("qwen3-qknorm"));
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code, ErrorCode::exhausted);
  EXPECT_THAT(sentence(third), AllOf(HasSubstr("qwen3-qknorm.gguf' cannot be loaded: at most 2 models"),
                                     HasSubstr("llama-gqa.gguf'"), HasSubstr("qwen2-bias.gguf'"), HasSubstr("in use")));
  EngineOptions smaller = model("llama-gqa");
  smaller.context = 64;
  EXPECT_THAT(sentence(registry.acquire(smaller)), HasSubstr("with other options)"));
  EXPECT_EQ(registry.close_idle(), 0);
  EXPECT_FALSE(reply_of(**first).empty());
  EXPECT_THAT(names(registry), ElementsAre("qwen2-bias", "llama-gqa"));
}

TEST(ModelRegistry, TheLimitOfBytesClosesAsManyAsItTakes) {
  std::uint64_t bytes = 0;
  {
    ModelRegistry registry;
    ASSERT_TRUE(registry.acquire(model("llama-gqa")).ok());
    bytes = registry.report()[0].bytes;
  }
  // The other contexts need less. Room for two and a half.
  ModelRegistry registry({.max_models = 9, .max_bytes = bytes * 5 / 2});
  const auto of_context = [](int context) {
    EngineOptions options = model("llama-gqa");
    options.context = context;
    return options;
  };
  for (const int context : {510, 511}) EXPECT_TRUE(registry.acquire(of_context(context)).ok());
  EXPECT_EQ(registry.report().size(), 2U);
  const Acquired held = registry.acquire(of_context(512));
  ASSERT_TRUE(held.ok()) << sentence(held);
  EXPECT_EQ((*held)->context(), 512);
  EXPECT_EQ(registry.report().size(), 2U);
  const Acquired other = registry.acquire(of_context(511));
  const Acquired refused = registry.acquire(of_context(509));
  ASSERT_TRUE(other.ok());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_THAT(sentence(refused), AllOf(HasSubstr(human_bytes(bytes * 5 / 2)), HasSubstr("are in use")));
}

TEST(ModelRegistry, AModelBeyondTheLimitOfBytesClosesNoOther) {
  ModelRegistry registry({.max_models = 2, .max_bytes = kMiB});
  const Acquired refused = registry.acquire(model("llama-gqa"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_THAT(sentence(refused), HasSubstr("models may take 1.0 MiB at most; raise max_bytes"));
  EXPECT_FALSE(memory_report().has_value());
}

TEST(ModelRegistry, ModelsMakeWayInTheProcessesBudget) {
  std::uint64_t bytes = 0;
  {
    const auto engine = Engine::open(model("llama-gqa"));
    const auto memory = memory_report();
    bytes = memory->weights + memory->work;
  }
  const auto tight = [&](const char* name) {
    EngineOptions options = model(name);
    options.memory.bytes = bytes * 3 / 2;
    return options;
  };
  ModelRegistry registry({.max_models = 3});
  for (const char* name : {"llama-gqa", "llama-bf16", "llama-q8_0"}) {
    const Acquired acquired = registry.acquire(tight(name));
    EXPECT_TRUE(acquired.ok()) << sentence(acquired);
    EXPECT_THAT(names(registry), ElementsAre(name));
  }
  const Acquired held = registry.acquire(tight("llama-gqa"));
  const Acquired refused = registry.acquire(tight("llama-bf16"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
  EXPECT_THAT(sentence(refused), HasSubstr("llama-gqa.gguf'"));
  EXPECT_THAT(sentence(refused), HasSubstr("is in use"));
}

TEST(ModelRegistry, AFileIsOneModelByWhateverName) {
  const std::string folder = ::testing::TempDir() + "dalsegno_models_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  const std::string link = folder + "/link.gguf";
  std::filesystem::create_symlink(testing::tiny_model("llama-gqa"), link);
  Watched watched;
  ModelRegistry registry(watched.options(3));
  const auto at_link = [&] {
    EngineOptions options = model("llama-gqa");
    options.model_path = link;
    return options;
  };
  const Acquired one = registry.acquire(model("llama-gqa"));
  const Acquired other = registry.acquire(at_link());
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_EQ(one->get(), other->get());
  std::filesystem::remove(link);
  std::filesystem::copy_file(testing::tiny_model("qwen2-bias"), link);
  const Acquired replaced = registry.acquire(at_link());
  ASSERT_TRUE(replaced.ok());
  EXPECT_NE(replaced->get(), one->get());
  EXPECT_EQ(watched.opens(), 2);
  std::filesystem::remove_all(folder);
}

TEST(ModelRegistry, OptionsThatAffectBehaviourTellModelsApart) {
  Watched watched;
  ModelRegistry registry(watched.options(9));
  std::vector<EnginePtr> held;
  const auto acquire = [&](const EngineOptions& options) {
    Acquired acquired = registry.acquire(options);
    EXPECT_TRUE(acquired.ok()) << sentence(acquired);
    if (acquired.ok()) held.push_back(std::move(acquired).value());
    return watched.opens();
  };
  EngineOptions options = model("llama-gqa");
  EXPECT_EQ(acquire(options), 1);
  options.threads = 2;
  options.eviction = "lru";
  EXPECT_EQ(acquire(options), 1) << "performance alone";
  options.kv.format = KvFormat::f32;
  EXPECT_EQ(acquire(options), 2);
  options.kv.group_size = 32;
  EXPECT_EQ(acquire(options), 2) << "of no meaning without codes";
  options.activation_bits = 16;
  EXPECT_EQ(acquire(options), 3);
  options.context = 64;
  EXPECT_EQ(acquire(options), 4);
  options.audit_share = 0;
  EXPECT_EQ(acquire(options), 5);
}

TEST(ModelRegistry, ConcurrentLoadsOfOneModelAreOne) {
  Watched watched;
  watched.shut();
  ModelRegistry registry(watched.options(1));
  std::vector<Acquired> got;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      Acquired acquired = registry.acquire(model("llama-gqa"));
      const std::lock_guard lock(mutex);
      got.push_back(std::move(acquired));
    });
  }
  while (users(registry) < 6) std::this_thread::yield();
  EXPECT_TRUE(registry.report()[0].loading);
  watched.lift();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(watched.opens(), 1);
  for (const Acquired& each : got) {
    ASSERT_TRUE(each.ok()) << sentence(each);
    EXPECT_EQ(each->get(), got[0]->get());
  }
}

TEST(ModelRegistry, ALoadHoldsUpNoOtherModel) {
  Watched watched;
  ModelRegistry registry(watched.options(2));
  ASSERT_TRUE(registry.acquire(model("qwen2-bias")).ok());
  watched.shut();
  std::thread slow([&] { EXPECT_TRUE(registry.acquire(model("llama-gqa")).ok()); });
  watched.wait_until_opening(1);
  const Acquired other = registry.acquire(model("qwen2-bias"));
  ASSERT_TRUE(other.ok());
  EXPECT_FALSE(reply_of(**other).empty());
  const Acquired third = registry.acquire(model("qwen3-qknorm"));
  EXPECT_THAT(sentence(third), HasSubstr("llama-gqa.gguf'")) << "a model that loads is in use";
  watched.lift();
  slow.join();
}

TEST(ModelRegistry, AFailedLoadIsTheSameErrorForAllAndLeavesNothing) {
  const std::string path = ::testing::TempDir() + "dalsegno_models_" + std::to_string(getpid()) + ".gguf";
  std::filesystem::copy_file(testing::tiny_model("llama-gqa"), path);
  Watched watched;
  watched.shut();
  ModelRegistry registry(watched.options(1));
  EngineOptions damaged = model("llama-gqa");
  damaged.model_path = path;
  std::vector<std::string> errors(4);
  std::vector<std::thread> threads;
  for (std::string& error : errors) threads.emplace_back([&] { error = sentence(registry.acquire(damaged)); });
  while (users(registry) < 4) std::this_thread::yield();
  std::ofstream(path, std::ios::trunc) << "no model at all";
  watched.lift();
  for (std::thread& thread : threads) thread.join();
  EXPECT_NE(errors[0], "");
  for (const std::string& error : errors) EXPECT_EQ(error, errors[0]);
  EXPECT_EQ(watched.opens(), 1);
  EXPECT_TRUE(registry.report().empty());
  EXPECT_FALSE(memory_report().has_value());
  EXPECT_TRUE(registry.acquire(model("llama-gqa")).ok());
  std::filesystem::remove(path);
}

TEST(ModelRegistry, WhatTheHeaderTellsToBeImpossibleClosesNothing) {
  ModelRegistry registry;
  ASSERT_TRUE(registry.acquire(model("llama-gqa")).ok());
  EngineOptions wrong = model("qwen2-bias");
  wrong.context = 1 << 30;
  EXPECT_FALSE(registry.acquire(wrong).ok());
  wrong = model("no-such-model");
  const Acquired missing = registry.acquire(wrong);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::not_found);
  EXPECT_THAT(names(registry), ElementsAre("llama-gqa"));
}

TEST(ModelRegistry, ACancelledLoadLeavesNothing) {
  Watched watched;
  watched.shut();
  ModelRegistry registry(watched.options(2));
  const auto other = testing::open_engine({.memory_bytes = 512 * kMiB});
  const auto before = memory_report();
  std::stop_source stop;
  std::thread thread([&] {
    const Acquired acquired = registry.acquire(model("qwen2-bias"), stop.get_token());
    ASSERT_FALSE(acquired.ok());
    EXPECT_EQ(acquired.error().code, ErrorCode::cancelled);
  });
  watched.wait_until_opening(1);
  stop.request_stop();
  thread.join();
  EXPECT_TRUE(registry.report().empty());
  EXPECT_EQ(memory_report()->weights, before->weights);
  EXPECT_EQ(memory_report()->work, before->work);
  EXPECT_EQ(memory_report()->index, before->index);
  EXPECT_EQ(memory_report()->engines, 1);
  watched.lift();
  EXPECT_TRUE(registry.acquire(model("qwen2-bias")).ok()) << "it can be loaded again";
}

TEST(ModelRegistry, ALoadGoesOnForThoseWhoAreNotCancelled) {
  Watched watched;
  watched.shut();
  ModelRegistry registry(watched.options(1));
  std::stop_source stop;
  std::thread first(
      [&] { EXPECT_EQ(registry.acquire(model("llama-gqa"), stop.get_token()).error().code, ErrorCode::cancelled); });
  watched.wait_until_opening(1);
  std::thread second([&] { EXPECT_TRUE(registry.acquire(model("llama-gqa")).ok()); });
  while (users(registry) < 2) std::this_thread::yield();
  stop.request_stop();
  first.join();
  EXPECT_EQ(users(registry), 1) << "the cancelled one did not wait for the load";
  watched.lift();
  second.join();
  EXPECT_EQ(watched.opens(), 1);
}

TEST(ModelRegistry, AModelThatIsLeftBehindLivesUntilItsLastUserGoes) {
  EnginePtr held;
  {
    ModelRegistry registry({.max_models = 2});
    held = registry.acquire(model("llama-gqa")).value();
    ASSERT_TRUE(registry.acquire(model("qwen2-bias")).ok());
    EXPECT_EQ(registry.close_idle(), 1);
  }
  EXPECT_EQ(memory_report()->engines, 1);
  EXPECT_FALSE(reply_of(*held).empty());
  held.reset();
  EXPECT_FALSE(memory_report().has_value());
}

// An engine that is cancelled wherever it stands ends with nothing left, or is open.
TEST(Engine, CancelledWhileItOpensLeavesNothing) {
  const auto other = testing::open_engine({.memory_bytes = 512 * kMiB});
  const auto before = memory_report();
  std::stop_source at_once;
  at_once.request_stop();
  const auto refused = Engine::open(model("llama-gqa"), at_once.get_token());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::cancelled);
  EXPECT_THAT(refused.error().message, HasSubstr("llama-gqa.gguf': loading was cancelled"));
  int cancelled = 0;
  constexpr int kRounds = testing::rounds(200);
  for (int i = 0; i < kRounds; ++i) {
    std::stop_source stop;
    std::atomic<bool> through{false};
    std::thread killer([&] {
      const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(4000 * i / kRounds);
      while (std::chrono::steady_clock::now() < end && !through) std::this_thread::yield();
      stop.request_stop();
    });
    {
      const auto opened = Engine::open(model("llama-gqa"), stop.get_token());
      cancelled += opened.ok() ? 0 : 1;
      if (!opened.ok()) {
        EXPECT_EQ(opened.error().code, ErrorCode::cancelled) << opened.error().message;
      }
    }
    through = true;
    killer.join();
    const auto after = memory_report();
    ASSERT_EQ(after->weights + after->work + after->index, before->weights + before->work + before->index);
    ASSERT_EQ(after->engines, 1);
  }
  EXPECT_GT(cancelled, 0);
}

// Eight threads ask for four models of which two may be loaded, with cancellations. Whoever gets one gets its answers.
TEST(ModelRegistry, ManyThreads) {
  const std::vector<std::string> models{"llama-gqa", "qwen2-bias", "qwen3-qknorm", "gemma3-swa"};
  std::map<std::string, std::vector<TokenId>> known;
  for (const std::string& name : models) known[name] = reply_of(**Engine::open(model(name)));
  ModelRegistry registry({.max_models = 2});
  std::atomic<int> answered{0};
  std::atomic<int> wrong{0};
  std::atomic<bool> running{true};
  std::thread watcher([&] {
    while (running) {
      const auto memory = memory_report();
      if (registry.report().size() > 2 || (memory && memory->engines > 2)) ++wrong;
      std::this_thread::yield();
    }
  });
  const auto drive = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 60; ++i) {
      const std::string& name = models[random() % models.size()];
      std::stop_source stop;
      std::thread killer;
      if (random() % 4 == 0) {
        const auto when = std::chrono::microseconds(random() % 3000);
        killer = std::thread([stop, when]() mutable {
          std::this_thread::sleep_for(when);
          stop.request_stop();
        });
      }
      const Acquired acquired = registry.acquire(model(name), stop.get_token());
      if (acquired.ok()) {
        ++answered;
        if (reply_of(**acquired) != known[name]) ++wrong;
      } else if (acquired.error().code != ErrorCode::cancelled && acquired.error().code != ErrorCode::exhausted) {
        ADD_FAILURE() << sentence(acquired);
      }
      if (killer.joinable()) killer.join();
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 8; ++i) threads.emplace_back(drive, 40 + i);
  for (std::thread& thread : threads) thread.join();
  running = false;
  watcher.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(answered, 20);
  EXPECT_EQ(users(registry), 0);
  registry.close_idle();
  EXPECT_FALSE(memory_report().has_value());
}

}  // namespace
}  // namespace dalsegno
