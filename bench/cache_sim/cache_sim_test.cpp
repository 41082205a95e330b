#include <gtest/gtest.h>

#include "cache_sim/replay.hpp"
#include "cache_sim/trace.hpp"

namespace dalsegno::cache_sim {
namespace {

Outcome replayed(const Trace& trace, const std::string& policy) {
  const auto outcome = replay(trace, policy);
  EXPECT_TRUE(outcome.ok()) << outcome.error().message;
  return outcome.ok() ? outcome.value() : Outcome{};
}

TEST(CacheSim, WithRoomForAllNothingIsRecomputed) {
  for (Trace trace : {round_robin(1), agents(1), chat(1), few_shot(1)}) {
    trace.budget = unique_blocks(trace);
    EXPECT_EQ(clairvoyant(trace).recomputed, 0U) << trace.name;
    for (const std::string policy : {"lru", "value"}) EXPECT_EQ(replayed(trace, policy).recomputed, 0U) << trace.name;
  }
}

TEST(CacheSim, NoPolicyBeatsTheClairvoyantOne) {
  for (const Trace& trace : generated(1)) {
    const Outcome bound = clairvoyant(trace);
    for (const std::string policy : {"lru", "value"}) {
      const Outcome outcome = replayed(trace, policy);
      EXPECT_EQ(outcome.asked, bound.asked) << trace.name;
      EXPECT_GE(outcome.recomputed, bound.recomputed) << trace.name;
      EXPECT_LE(outcome.reused, bound.reused) << trace.name;
    }
  }
}

TEST(CacheSim, HalfOfSixConversationsInTurnsRecomputeAtMostHalfMoreThanTheyMust) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Trace trace = round_robin(seed);
    const Outcome bound = clairvoyant(trace);
    ASSERT_GT(bound.recomputed, 0U);
    EXPECT_LE(2 * replayed(trace, "value").recomputed, 3 * bound.recomputed) << "seed " << seed;
  }
}

TEST(CacheSim, InRandomOrderTheDefaultNeverRecomputesMoreThanLru) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Trace trace = random_order(seed);
    EXPECT_LE(replayed(trace, "value").recomputed, replayed(trace, "lru").recomputed) << "seed " << seed;
  }
}

TEST(CacheSim, TenThousandOneOffPromptsDoNotEvictWhatPeopleComeBackTo) {
  const Trace trace = scan(1);
  EXPECT_GT(replayed(trace, "lru").recomputed, 0U);
  EXPECT_EQ(replayed(trace, "value").recomputed, 0U);
}

// Blocks 1, 2 and 3 behind 1; two fit. Of 2 and 3, what is asked for later goes.
TEST(CacheSim, TheBoundIsWhatCanBeCountedByHand) {
  const Trace trace{"by hand", {{{1, 2}, {}}, {{1, 3}, {}}, {{1, 2}, {}}, {{1, 2}, {}}, {{4}, {5}}, {{1}, {}}}, 2};
  const Outcome bound = clairvoyant(trace);
  EXPECT_EQ(bound.asked, 10U);
  EXPECT_EQ(bound.reused, 4U);
  EXPECT_EQ(bound.recomputed, 2U);
}

TEST(CacheSim, ReadsTracesOfBlockIds) {
  const auto trace = parse_trace(
      "{\"timestamp\": 0, \"input_length\": 1200, \"output_length\": 9, \"hash_ids\": [7, 8, 9]}\r\n\n"
      "{\"timestamp\": 3, \"input_length\": 1500, \"output_length\": 2, \"hash_ids\": [7, 8, -5000000000]}");
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  ASSERT_EQ(trace.value().requests.size(), 2U);
  EXPECT_EQ(trace.value().requests[0].prompt, (Blocks{1, 2, 3}));
  EXPECT_EQ(trace.value().requests[1].prompt, (Blocks{1, 2, 4}));
  EXPECT_EQ(unique_blocks(trace.value()), 4U);
}

TEST(CacheSim, WhatIsNoTraceIsASentenceWithTheLine) {
  for (const char* text : {"{\"hash_ids\": [1]}\n[1]", "{\"hash_ids\": [1]}\n{\"hash_ids\": 3}",
                           "{\"hash_ids\": [1]}\n{\"hash_ids\": [1.5]}", "{\"hash_ids\": [1]}\nnonsense"}) {
    const auto trace = parse_trace(text);
    ASSERT_FALSE(trace.ok());
    EXPECT_NE(trace.error().message.find("line 2"), std::string::npos) << trace.error().message;
  }
  EXPECT_FALSE(import_trace("/nonexistent/trace.jsonl").ok());
}

}  // namespace
}  // namespace dalsegno::cache_sim
