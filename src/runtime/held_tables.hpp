#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "cache/block_table.hpp"
#include "cache/kv_cache.hpp"

namespace dalsegno {

// Tables that stay, pinned and unchanged, by a number of the caller's: pins, and the K/V of prompt caches.
// Errors, of all that holds: as KvCache::pin(); then nothing is held, and what was computed stays cached.
// Threads: engine thread only.
class HeldTables {
 public:
  explicit HeldTables(KvCache& cache) : cache_(cache) {}

  // while_used: for a moment, as a running sequence is, and so without a pin's limits.
  enum class Keep : std::uint8_t { pinned, while_used };
  // Requires, as all that holds: `id` holds nothing.
  Result<void> hold(std::uint64_t id, BlockTable&& table, Keep keep = Keep::pinned);
  // These tokens if all of them are cached; false: they are not.
  Result<bool> hold_cached(std::uint64_t id, const Namespace& name_space, std::span<const TokenId> tokens,
                           Keep keep = Keep::pinned);
  // The first `tokens` tokens of another table, or fewer where a sliding window lacks what comes before; how many.
  Result<int> hold_fork(std::uint64_t id, BlockTable& source, int tokens);
  // nullptr: nothing is held by this number.
  [[nodiscard]] BlockTable* find(std::uint64_t id);
  void release(std::uint64_t id);

  // The pages of a table, as KvView, that stay valid while it is held.
  struct Pages {
    std::vector<std::vector<std::byte*>> slices;  // [kAllSlices][blocks], those of the layout; nullptr: absent
  };
  // Errors: corrupt (an audit has found that the cache they come from is damaged).
  [[nodiscard]] Result<Pages> pages(std::uint64_t id);

  // K/V that come from elsewhere: begin(), then what is missing of `pages` is written, on any thread, then end().
  // Until then nobody sees them. Errors: also exhausted (no room).
  struct Arrival {
    int cached = 0;  // tokens that are there already
    Pages pages;     // those from `cached` on are to be written
  };
  Result<Arrival> begin(std::uint64_t id, const Namespace& name_space, std::span<const TokenId> tokens,
                        int window_block, Keep keep);
  Result<void> end(std::uint64_t id, std::span<const TokenId> tokens, Keep keep);
  void abandon(std::uint64_t id);

 private:
  [[nodiscard]] Pages pages_of(const BlockTable& table) const;

  KvCache& cache_;
  std::map<std::uint64_t, BlockTable> held_;
  std::map<std::uint64_t, BlockTable> arriving_;
};

}  // namespace dalsegno
