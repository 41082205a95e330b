// What requests take is given back, and an engine that has nothing to do takes nothing.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <random>
#include <thread>

#include "runtime/session_test_support.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::open_chat_engine;
using testing::open_engine;
using testing::random_tokens;

std::ptrdiff_t entries(const char* folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}
// A thread that was joined may still be listed for a moment, so more than `most` are looked at again.
std::ptrdiff_t threads(std::ptrdiff_t most = 0) {
  std::ptrdiff_t seen = entries("/proc/self/task");
  for (int i = 0; i < 1000 && most > 0 && seen > most; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    seen = entries("/proc/self/task");
  }
  return seen;
}
std::ptrdiff_t open_files() {
  return entries("/proc/self/fd");
}

// Goes on until it is cancelled: by itself after so many calls, or by whoever waits for it.
class Leaver final : public testing::Recorder {
 public:
  explicit Leaver(int calls) : Recorder(1 << 20), calls_(calls) {}
  void on_progress(int, int) override { count(); }
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    count();
    return Recorder::on_logits(position, logits, tokens);
  }

 private:
  void count() {
    if (--calls_ == 0) cancel();
  }
  int calls_;
};

// Prompts that begin alike, of two tenants, some without reuse; in random states when they are cancelled.
class Canceller {
 public:
  Canceller(LocalEngine& engine, unsigned seed) : engine_(engine), random_(seed), slots_(12) {
    for (int i = 0; i < 4; ++i) bases_.push_back(random_tokens(random_, 120));
  }
  // How many of `count` requests ended because they were cancelled.
  int run(int count) {
    for (; count > 0; --count) replace(slots_[random_() % slots_.size()]);
    for (auto& slot : slots_) end(slot);
    return cancelled_;
  }

 private:
  void replace(std::shared_ptr<Leaver>& slot) {
    end(slot);
    std::vector<TokenId> prompt = bases_[random_() % bases_.size()];
    prompt.resize(1 + random_() % prompt.size());
    const auto tail = random_tokens(random_, static_cast<int>(random_() % 30));
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    const int last = static_cast<int>(prompt.size()) - 1;
    slot = std::make_shared<Leaver>(static_cast<int>(random_() % 12));
    Work work{slot, std::move(prompt), last};
    work.chunk = 1 + static_cast<int>(random_() % 100);
    work.reuse = random_() % 8 != 0;
    work.salt = random_() % 4 == 0 ? "other" : "";
    work.scheduling.urgency = static_cast<int>(random_() % 3);
    std::vector<Work> one;
    one.push_back(std::move(work));
    engine_.scheduler().submit(std::move(one));
    if (random_() % 8 == 0) slot->cancel();
  }
  void end(std::shared_ptr<Leaver>& slot) {
    if (slot == nullptr) return;
    slot->cancel();
    const Result<FinishReason> outcome = slot->wait();
    cancelled_ += outcome.ok() && *outcome == FinishReason::cancelled ? 1 : 0;
    slot.reset();
  }

  LocalEngine& engine_;
  std::mt19937 random_;
  std::vector<std::vector<TokenId>> bases_;
  std::vector<std::shared_ptr<Leaver>> slots_;
  int cancelled_ = 0;
};

TEST(Resources, TenThousandRandomCancelsLeakNoBlockThreadOrFile) {
  constexpr int kEach = 5000;
  std::thread([] {}).join();  // with the first one a sanitizer starts its own
  const std::ptrdiff_t threads_before = threads();
  const std::ptrdiff_t files_before = open_files();
  {
    const auto engine = open_engine();
    const std::ptrdiff_t threads_open = threads();
    const std::ptrdiff_t files_open = open_files();
    // Room for less than half of what runs at once.
    BlockTable ballast;
    engine->scheduler().on_engine_thread([&](KvCache& cache) {
      const auto pages = [&](int blocks) {
        return cache.layout().pages_for(blocks * kBlockTokens, blocks * kBlockTokens);
      };
      int blocks = 0;
      while (pages(blocks + 1) + cache.layout().pages_for(700, 1) <= cache.stats().pages_limit) ++blocks;
      ballast = cache.open_private();
      ASSERT_TRUE(cache.extend(ballast, blocks * kBlockTokens).ok());
    });
    std::atomic<int> cancelled{0};
    std::thread other([&] { cancelled += Canceller(*engine, 1).run(kEach); });
    cancelled += Canceller(*engine, 2).run(kEach);
    other.join();
    EXPECT_GE(cancelled, 2 * kEach * 95 / 100) << "the others ran out of room, or of context";
    engine->scheduler().on_engine_thread([&](KvCache& cache) {
      cache.discard(std::move(ballast));
      EXPECT_EQ(cache.check_invariants(), "");
      EXPECT_EQ(cache.stats().pages_used, cache.stats().pages_evictable) << "nobody holds a block";
      cache.clear();
      EXPECT_EQ(cache.stats().pages_used, 0U);
      EXPECT_EQ(cache.stats().blocks, 0U);
    });
    EXPECT_EQ(threads(threads_open), threads_open);
    EXPECT_EQ(open_files(), files_open);
  }
  EXPECT_EQ(threads(threads_before), threads_before);
  EXPECT_EQ(open_files(), files_before);
  EXPECT_EQ(ProcessMemory::current(), nullptr) << "nor a byte of the budget";
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(Resources, AnIdleEngineWithSessionsTakesNoCpu) {
  const auto engine = open_chat_engine();
  std::vector<Session> sessions;
  for (int i = 0; i < 4; ++i) {
    sessions.push_back(testing::make_session(*engine, {.instructions = "Session " + std::to_string(i), .pin = i == 3}));
    testing::turn(sessions.back(), "Hello", "Hi there.");
  }
  engine->audit_cache(64);  // all that the computed blocks have earned, so that none is due
  // Threads that still look for work park first, however long a busy machine takes for that.
  double used = 1;
  for (int i = 0; i < 5 && used >= 0.005; ++i) {
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::seconds(2));
    used = cpu_seconds() - before;
  }
  EXPECT_LT(used, 0.005);
}

}  // namespace
}  // namespace dalsegno
