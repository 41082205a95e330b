#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/numerics_key.hpp"

namespace dalsegno {

class BlockTable;  // cache/block_table.hpp: a sequence's ordered blocks; move-only; holds its pins

struct KvCacheOptions {
  KvLayout layout;
  std::uint64_t max_bytes = 0;      // K/V pages at most; reserved from the budget extent by extent, before use
  std::uint64_t extent_bytes = 64ULL << 20;
  MemoryBudget* budget = nullptr;
};

struct CacheStats {
  std::uint64_t pages_used = 0;      // pinned by sequences or held by the index
  std::uint64_t pages_evictable = 0; // held by the index alone
  std::uint64_t pages_limit = 0;
  std::uint64_t evictions = 0;
  std::uint64_t index_nodes = 0;
  std::uint64_t index_bytes = 0;
};

// Block pool, block tables and prefix index behind the few calls the engine makes.
// It stores bytes and tokens; it knows nothing of models.
// Threads: engine thread only. Invariant: see check_invariants().
class KvCache {
 public:
  static Result<std::unique_ptr<KvCache>> create(const KvCacheOptions& options);
  ~KvCache();

  struct Opened;  // {BlockTable table; int reused; Stopped stopped; int at;}
  // A table that begins with the longest cached prefix of tokens[0, limit); limit <= tokens.size().
  // A partly matched block is shared by copying its matched part into a page of the table's own.
  // When the pool is full even after eviction, the partial block is left out.
  // stopped/at describe where matching ended in tokens[0, size): `end` when every one of
  // tokens[0, limit) was reused.
  Opened open(const Namespace& name_space, std::span<const TokenId> tokens, int limit);
  // The same without taking anything: what open() would reuse, and why no more.
  struct Preview {
    int reused = 0;
    Stopped stopped = Stopped::cold;
    int at = 0;
  };
  [[nodiscard]] Preview preview(const Namespace& name_space, std::span<const TokenId> tokens, int limit) const;

  // Makes room for positions [table.tokens(), table.tokens() + more): allocates pages, evicting as
  // needed. On failure (exhausted) the table is as before.
  Result<void> extend(BlockTable& table, int more);
  // The K/V of these tokens, the next after table.tokens(), has now been computed. Full blocks become
  // visible to others at once; where the index already holds the same block, the table takes
  // that one and gives up its own page.
  void commit(BlockTable& table, std::span<const TokenId> tokens);
  // Ends the sequence: its last partial block becomes reusable too. The table is empty afterwards.
  void close(BlockTable&& table);
  // Ends the sequence without publishing anything not yet visible (a failed one).
  void discard(BlockTable&& table);

  // The view for one step; valid until the table changes.
  [[nodiscard]] KvView view(const BlockTable& table) const;

  // True if `pages` more could be had by allocating and evicting everything evictable.
  [[nodiscard]] bool could_fit(std::uint64_t pages) const;
  // Drops every block no table pins, and what the index remembers of evicted ones.
  void clear();
  [[nodiscard]] CacheStats stats() const;
  // Empty if sound, else the first violation as a sentence. Cost: linear in pages and nodes.
  [[nodiscard]] std::string check_invariants() const;
  [[nodiscard]] const KvLayout& layout() const;

 private:
  struct Impl;
  explicit KvCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
