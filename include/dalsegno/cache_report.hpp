#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "dalsegno/types.hpp"

namespace dalsegno {

// How many values were of which size: bucket 0 counts those of 0, bucket i those from 2^(i-1) on and below 2^i, the
// last one all greater ones too.
struct Histogram {
  static constexpr std::size_t kBuckets = 33;
  std::array<std::uint64_t, kBuckets> buckets{};
  std::uint64_t count = 0;
  std::uint64_t sum = 0;

  void add(std::uint64_t value) {
    const auto width = static_cast<std::size_t>(std::bit_width(value));
    ++buckets[width < kBuckets ? width : kBuckets - 1];
    ++count;
    sum += value;
  }
  // The least value that a bucket counts.
  [[nodiscard]] static constexpr std::uint64_t from(std::size_t bucket) {
    return bucket == 0 ? 0 : std::uint64_t{1} << (bucket - 1);
  }
};

struct ReuseCounts {
  std::uint64_t requests = 0;
  std::uint64_t reused_tokens = 0;
  std::uint64_t missing_tokens = 0;  // of their prompts, those not reused
};

// Blocks of 16 tokens that went from the cache, by why.
struct EvictedBlocks {
  std::uint64_t room = 0;     // for blocks of others
  std::uint64_t quota = 0;    // for others of their own salt, which was over its quota
  std::uint64_t limit = 0;    // for a memory limit: the idle one, the system's, or because another engine needs it
  std::uint64_t expired = 0;  // by Retention::ttl_seconds
  std::uint64_t cleared = 0;  // by reset_cache(), release_all() and their like
  // Checkpoints given up for room or a limit: their blocks lost the K/V of sliding-window layers alone.
  std::uint64_t checkpoints = 0;

  // Those that the eviction policy chose.
  [[nodiscard]] std::uint64_t chosen() const { return room + quota + limit; }
};

// What the cache of an engine has done since that was opened, and what it holds now. Queries of log-probabilities and
// prefixes computed for a pin count as requests; one that was preempted counts once.
struct CacheReport {
  std::array<ReuseCounts, kStoppedCount> by_cause{};  // [Stopped]: why their reuse ended
  Histogram reused_tokens;                            // of each request's prompt
  Histogram missing_tokens;
  std::uint64_t continued = 0;    // requests that a cache they were given took further than what was shared
  std::uint64_t waits = 0;        // times that a request waited for another to compute the same blocks
  std::uint64_t preemptions = 0;  // times that a running request gave its room up to others
  EvictedBlocks evicted;
  Histogram unused_for;  // requests that came between a block's last use and its eviction for room or a quota

  // Now.
  std::uint64_t blocks = 0;         // of 16 tokens, in the index
  std::uint64_t window_blocks = 0;  // of these, those that have the K/V of sliding-window layers too
  std::uint64_t checkpoints = 0;
  // In bytes.
  std::uint64_t kv_cached = 0;  // K/V that would make room if need be
  std::uint64_t kv_in_use = 0;  // of what runs, is pinned, or belongs to a PromptCache
  std::uint64_t kv_pinned = 0;  // of these
  std::uint64_t kv_free = 0;    // reserved from the budget, and empty
  std::uint64_t index = 0;      // used of what memory_report() has reserved for it

  [[nodiscard]] ReuseCounts total() const {
    ReuseCounts all;
    for (const ReuseCounts& each : by_cause) {
      all.requests += each.requests;
      all.reused_tokens += each.reused_tokens;
      all.missing_tokens += each.missing_tokens;
    }
    return all;
  }
};

}  // namespace dalsegno
