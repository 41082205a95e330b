#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cache_sim/replay.hpp"
#include "cache_sim/trace.hpp"
#include "runtime/test_engine.hpp"

// Conversations that take turns on one engine of a tiny model, beside the least that a cache that knew what comes could
// compute again.

namespace dalsegno::testing {
namespace {

constexpr std::size_t kSessions = 6;
constexpr std::size_t kTurns = 8;

using Order = std::vector<std::size_t>;

Order in_turns() {
  Order order;
  for (std::size_t turn = 0; turn < kTurns; ++turn) {
    for (std::size_t session = 0; session < kSessions; ++session) order.push_back(session);
  }
  return order;
}

Order shuffled(unsigned seed) {
  Order order = in_turns();
  std::mt19937 random(seed);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

struct Played {
  int new_tokens = 0;
  int prefilled = 0;
  int recomputed = 0;  // tokens whose K/V there had been
  std::uint64_t pages = 0;
  cache_sim::Trace trace;  // of whole blocks
};

// Names the blocks of a sequence: equal numbers after equal prefixes are the same block.
class BlockNames {
 public:
  cache_sim::Blocks of(const std::vector<TokenId>& tokens) {
    cache_sim::Blocks blocks;
    for (auto end = tokens.begin(); tokens.end() - end >= kBlockTokens;) {
      end += kBlockTokens;
      blocks.push_back(
          names_.try_emplace({tokens.begin(), end}, static_cast<std::uint32_t>(names_.size() + 1)).first->second);
    }
    return blocks;
  }

 private:
  std::map<std::vector<TokenId>, std::uint32_t> names_;
};

std::uint64_t pages_limit(LocalEngine& engine) {
  std::uint64_t pages = 0;
  engine.scheduler().on_engine_thread([&](KvCache& cache) { pages = cache.stats().pages_limit; });
  return pages;
}

// The same messages whatever the order; replies are the model's.
Played play(const Order& order, std::uint64_t memory_bytes, const std::string& eviction) {
  const auto engine = open_engine({.memory_bytes = memory_bytes, .eviction = eviction});
  Played played;
  if (engine == nullptr) return played;
  std::vector<std::vector<TokenId>> said(kSessions);
  std::vector<std::mt19937> random;
  for (unsigned session = 0; session < kSessions; ++session) random.emplace_back(session + 1);
  BlockNames names;
  for (const std::size_t session : order) {
    std::vector<TokenId>& tokens = said[session];
    const int known = static_cast<int>(tokens.size());
    const std::vector<TokenId> message = random_tokens(random[session], 40 + static_cast<int>(random[session]() % 50));
    const int steps = 10 + static_cast<int>(random[session]() % 30);
    tokens.insert(tokens.end(), message.begin(), message.end());
    const int size = static_cast<int>(tokens.size());
    const auto recorder = run(*engine, tokens, {.from = size - 1, .steps = steps});
    const int reused = recorder->admission().reused;
    played.new_tokens += size - known;
    played.prefilled += size - reused;
    played.recomputed += std::max(0, known - reused);
    cache_sim::Request request{names.of(tokens), {}};
    tokens.insert(tokens.end(), recorder->reply.begin(), recorder->reply.end());
    const cache_sim::Blocks all = names.of(tokens);
    request.reply.assign(all.begin() + static_cast<std::ptrdiff_t>(request.prompt.size()), all.end());
    played.trace.requests.push_back(std::move(request));
  }
  check_cache(*engine);
  played.pages = pages_limit(*engine);
  played.trace.budget = static_cast<std::uint32_t>(played.pages);
  return played;
}

constexpr std::uint64_t kPlenty = 64ULL << 20;

// The memory with which about so many blocks fit.
std::uint64_t memory_for(std::uint64_t blocks) {
  std::uint64_t bytes = kPlenty;
  std::uint64_t pages[2];
  for (std::uint64_t& found : pages) {
    found = pages_limit(*open_engine({.memory_bytes = bytes}));
    bytes -= 8ULL << 20;
  }
  const double each = static_cast<double>(8ULL << 20) / static_cast<double>(pages[0] - pages[1]);
  return kPlenty - static_cast<std::uint64_t>(each * static_cast<double>(pages[0] - blocks));
}

std::uint64_t memory_for_half() {
  static const std::uint64_t bytes = [] {
    const Played all = play(in_turns(), kPlenty, "value");
    return memory_for(cache_sim::unique_blocks(all.trace) / 2);
  }();
  return bytes;
}

TEST(InterleavedConversations, WithRoomForAllEveryTurnPrefillsOnlyWhatIsNew) {
  for (unsigned seed = 0; seed <= 3; ++seed) {
    const Played played = play(seed == 0 ? in_turns() : shuffled(seed), kPlenty, "value");
    ASSERT_GT(played.pages, cache_sim::unique_blocks(played.trace) + kSessions);
    EXPECT_EQ(played.prefilled, played.new_tokens);
    EXPECT_EQ(played.recomputed, 0);
  }
}

TEST(InterleavedConversations, WithRoomForHalfTakingTurnsRecomputesAtMostHalfMoreThanItMust) {
  const Played played = play(in_turns(), memory_for_half(), "value");
  const std::uint32_t blocks = cache_sim::unique_blocks(played.trace);
  ASSERT_NEAR(static_cast<double>(played.pages), blocks / 2.0, blocks / 20.0);
  const cache_sim::Outcome bound = cache_sim::clairvoyant(played.trace);
  ASSERT_GT(bound.recomputed, blocks / 4U);
  EXPECT_EQ(bound.refused, 0U);
  EXPECT_LE(2 * played.recomputed, 3 * static_cast<int>(bound.recomputed) * kBlockTokens);
}

TEST(InterleavedConversations, WithRoomForHalfInRandomOrderNothingMoreThanLruIsRecomputed) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    const Order order = shuffled(seed);
    const Played value = play(order, memory_for_half(), "value");
    const Played lru = play(order, memory_for_half(), "lru");
    EXPECT_EQ(value.pages, lru.pages);
    EXPECT_GT(lru.recomputed, 0) << "seed " << seed;
    EXPECT_LE(value.recomputed, lru.recomputed) << "seed " << seed;
  }
}

}  // namespace
}  // namespace dalsegno::testing
