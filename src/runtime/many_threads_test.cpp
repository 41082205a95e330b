#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime/test_engine.hpp"

// Eight threads at one engine, doing all that its interface allows. Under TSan this looks for races; in every build,
// each reply must be the one that its prompt gets alone. DALSEGNO_STRESS_SECONDS: how long (default 2).
namespace dalsegno {
namespace {

using Tokens = std::vector<TokenId>;
constexpr int kThreads = 8;

double stress_seconds() {
  const char* asked = std::getenv("DALSEGNO_STRESS_SECONDS");
  return asked != nullptr ? std::strtod(asked, nullptr) : 2;
}

struct Case {
  Tokens prompt;
  Tokens reply;  // what an engine gives that runs nothing else
};

// Conversations that share beginnings of every length.
std::vector<Case> cases(LocalEngine& engine, const GenerateOptions& options) {
  std::mt19937 random(8);
  const Tokens base = testing::random_tokens(random, 200);
  std::vector<Case> all;
  for (int i = 0; i < 12; ++i) {
    Tokens prompt(base.begin(), base.begin() + static_cast<std::ptrdiff_t>(random() % 180));
    const Tokens tail = testing::random_tokens(random, 1 + static_cast<int>(random() % 60));
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    GenerateOptions alone = options;
    alone.reuse = false;
    const auto reply = engine.generate(prompt, alone, {});
    EXPECT_TRUE(reply.ok());
    if (reply.ok()) all.push_back({prompt, reply->ids});
  }
  return all;
}

class ManyThreads : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, ManyThreads, ::testing::Values("llama-gqa", "gemma3-swa"));

TEST_P(ManyThreads, GetTheBitsOfOne) {
  auto engine = testing::open_engine({.model = GetParam()});
  ASSERT_NE(engine, nullptr);
  const GenerateOptions options{.max_tokens = 12};
  const std::vector<Case> known = cases(*engine, options);
  ASSERT_EQ(known.size(), 12U);
  std::atomic<int> replies{0};
  std::atomic<int> wrong{0};
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(stress_seconds());
  const auto drive = [&](unsigned seed) {
    std::mt19937 random(seed);
    while (std::chrono::steady_clock::now() < end) {
      const Case& one = known[random() % known.size()];
      GenerateOptions own = options;
      own.salt = random() % 4 == 0 ? "other" : "";
      own.chunk = 1 + static_cast<int>(random() % 90);
      int left = random() % 6 == 0 ? 3 : 1000;  // some readers go away
      const auto reply = engine->generate(one.prompt, own, {[&](std::string_view) { return --left > 0; }, {}});
      ++replies;
      const bool whole = reply.ok() && left > 0;
      if (!reply.ok() || (whole && reply->ids != one.reply)) ++wrong;
      const auto dice = random() % 40;
      if (dice == 0) engine->reset_cache();
      if (dice == 1) static_cast<void>(engine->explain(one.prompt, ""));
      if (dice == 2 && engine->audit_cache(2).mismatched > 0) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back(drive, 100 + i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(replies, kThreads);
  testing::check_cache(*engine);
}

}  // namespace
}  // namespace dalsegno
