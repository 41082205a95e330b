#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/memory_budget.hpp"
#include "cache/eviction_policy.hpp"
#include "dalsegno/cache_report.hpp"
#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/numerics_key.hpp"

namespace dalsegno {

class BlockTable;  // cache/block_table.hpp: a sequence's ordered blocks; move-only; holds its pins

struct KvCacheOptions {
  // affects behaviour
  KvLayout layout;
  std::uint64_t max_bytes = 0;     // K/V pages at most; reserved from the budget extent by extent, before use
  MemoryBudget* budget = nullptr;  // required; outlives the cache
  // Where every layer has a window, blocks out of sight keep their tokens alone: enough of these for sequences so long.
  int most_tokens = 1 << 16;
  std::uint32_t max_ghosts = 1U << 16;  // evicted blocks remembered at most, so that `evicted` can be told from `cold`
  // K/V that a namespace may keep, by its salt, and of all other salts; 0: whatever there is room for.
  std::map<std::string, std::uint64_t> quotas = {};
  std::uint64_t quota_bytes = 0;
  const MonotonicClock* clock = &steady_clock();  // by which blocks expire; outlives the cache
  // affects performance
  std::uint64_t extent_bytes = 8ULL << 20;  // the finest in which memory is given back
  std::string eviction{kDefaultEviction};   // a name of cache/eviction_policy.hpp
};

struct CacheStats {
  std::uint64_t pages_used = 0;       // pinned by sequences or held by the index
  std::uint64_t pages_evictable = 0;  // of these, what could be given up
  std::uint64_t pages_limit = 0;
  std::uint64_t pages_free = 0;  // reserved from the budget, and empty
  EvictedBlocks evicted;
  Histogram unused_for;  // requests between a block's last use and its eviction for room or a quota
  std::uint64_t blocks_pinned = 0;
  std::uint64_t pages_pinned = 0;  // each pin's pages of sliding-window layers counted for itself
  std::uint64_t index_nodes = 0;   // blocks of the index, remembered evicted ones included
  std::uint64_t index_bytes = 0;   // what the index occupies now; its most is reserved by create()
  std::uint64_t blocks = 0;        // of the index
  // Of models with sliding-window layers.
  std::uint64_t window_blocks = 0;  // blocks of the index that have the pages of those layers too
  std::uint64_t checkpoints = 0;
};

// Block pool, block tables and prefix index behind the few calls the engine makes.
// It stores bytes and tokens; it knows nothing of models.
// Threads: engine thread only. Invariant: see check_invariants().
class KvCache {
 public:
  // Reserves the index's memory at once, pages only when they are needed. Errors: invalid_argument
  // (an empty layout, no budget, an unknown policy), exhausted (not one page fits the budget or max_bytes).
  static Result<std::unique_ptr<KvCache>> create(const KvCacheOptions& options);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  struct Opened;  // cache/block_table.hpp: {BlockTable table; int reused; Stopped stopped; int at;}
  // A table that begins with the longest cached prefix of tokens[0, limit); limit <= tokens.size().
  // A partly matched block is shared by copying it into a page of the table's own. When the pool is
  // full even after eviction, the partial block is left out (stopped says `evicted`).
  // at: the first token that is not cached. reused == at, or, where a sliding window lacks what comes before, the
  // nearest place before from which the sequence can be resumed. stopped is the first of these that holds:
  //   window      reused < at
  //   end         every one of tokens[0, limit) was reused
  //   evicted     a block given up for room continues with at least the next token
  //   diverged    the index continues here, with other tokens
  //   name_space  a namespace of the same salt but another numerics key holds at least the next token too;
  //               what other salts hold is never told
  //   cold
  // A namespace the budget has no room for, or in quarantine (stopped says `off`), is served as by open_private().
  // retention: of all blocks that the table will have used when it lets go of them. What has expired is not there.
  Opened open(const Namespace& name_space, std::span<const TokenId> tokens, int limit, const Retention& retention = {});
  // An empty table that neither reads from nor adds to the index, for requests with reuse off.
  BlockTable open_private();
  // The same as open() without taking anything: what it would reuse, and why no more.
  struct Preview {
    int reused = 0;
    Stopped stopped = Stopped::cold;
    int at = 0;
  };
  [[nodiscard]] Preview preview(const Namespace& name_space, std::span<const TokenId> tokens, int limit) const;

  // Makes room for positions [table.tokens(), table.tokens() + more): allocates pages, evicting as
  // needed, and copies a last block that others share, since it will be written. Of sliding-window
  // layers only for the first `rows` of them, since what lies behind the window will be given back until then.
  // Every position must be made room for before a step writes it.
  // On failure (exhausted) the table is as before; what cannot fit evicts nothing.
  Result<void> extend(BlockTable& table, int more, int rows);
  Result<void> extend(BlockTable& table, int more) { return extend(table, more, more); }
  // The bytes that others would have to give back to the budget for extend() to succeed, if all is evicted that can be.
  // nullopt: then the cache itself cannot hold so much beside what tables hold.
  [[nodiscard]] std::optional<std::uint64_t> lacks(const BlockTable& table, int more, int rows) const;
  // As extend(), for tokens that may prove wrong: takes only pages that lie free, so that nothing is evicted and
  // nothing reserved for it. Returns for how many of these positions there is room. Requires: extend() made room for
  // the first.
  int extend_into_free(BlockTable& table, int more);
  // Whole blocks of room beyond the last token go back. Requires: nothing will be written there before extend().
  void give_back_room(BlockTable& table);
  // What sequences of the table's namespace had after its tokens and then `next`, as far as it is cached and at most
  // `most`; of several, one of those used last. Only looks: nothing counts as used.
  [[nodiscard]] std::vector<TokenId> continuation(const BlockTable& table, std::span<const TokenId> next,
                                                  int most) const;
  // The K/V of these tokens, the next after table.tokens(), has now been computed. Full blocks become
  // visible to others at once; where the index already holds the same block, the table takes
  // that one and gives up its own page. Requires: extend() made room for them.
  // What is never committed is never visible: tokens that a step computed but that were rejected since (drafts) are
  // left out, and later steps write over them.
  void commit(BlockTable& table, std::span<const TokenId> tokens);
  // For K/V that were computed before and are put back, `tokens` tokens in all: those of sliding-window layers will be
  // written from window_block on only. Room for all the rest must be made by the next extend(), and all of it committed
  // at once. Requires: tokens >= table.tokens(), and from there on window_block is in sight.
  void skip_to(BlockTable& table, int tokens, int window_block);
  // Others will want to resume where the table has this many tokens: a prompt's end, or where another prompt leaves it.
  void expect_end(BlockTable& table, int tokens);
  // Ends the sequence: its last partial block becomes reusable too. The table is empty afterwards.
  void close(BlockTable&& table);
  // Ends the sequence without publishing anything not yet visible (a failed one).
  void discard(BlockTable&& table);
  // Its last partial block becomes reusable, and its end a place to resume from, as by close(), but it stays open. Room
  // made but not yet committed is taken back.
  void publish(BlockTable& table);
  // A second table with the same tokens and the same pages. Room made but not yet committed is
  // taken back from the source: both extend() before they write again. Cost: O(1); O(window) where layers slide.
  BlockTable fork(BlockTable& source);
  // Forgets all but the first `tokens` tokens, and room made beyond them. What is visible stays so.
  // Returns how many are left: fewer than asked for where a sliding window lacks what comes before, as in open().
  // Requires: 0 <= tokens <= table.tokens(). Cost: O(log tokens); where layers slide, the way to the checkpoint.
  int rewind(BlockTable& table, int tokens);

  // The table's full blocks, and what a sliding window sees from their end, stay until the table is closed, discarded
  // or rewound. Errors: exhausted, where the namespace's quota, or half of all pages, cannot hold what is pinned.
  Result<void> pin(BlockTable& table);
  // The same error if a table with these tokens could not be pinned now.
  [[nodiscard]] Result<void> may_pin(const Namespace& name_space, std::span<const TokenId> tokens) const;

  // The view for one step; valid until the table changes.
  [[nodiscard]] KvView view(const BlockTable& table) const;

  // The longest sequence that there is room for, if it runs alone, in steps of at most `rows` tokens.
  [[nodiscard]] int most_tokens(int rows) const;
  // What a sequence of so many tokens takes at most, in steps of at most `rows` tokens.
  [[nodiscard]] std::uint64_t bytes_for(int tokens, int rows) const;
  // What a cache takes from the budget, index included, that has room for one sequence of so many tokens in such steps.
  static std::uint64_t bytes_needed(const KvCacheOptions& options, int tokens, int rows);
  // A full block of some namespace, with all tokens up to its end. nullopt: there is none, or no room for `blocks`
  // blocks again without evicting. Equal numbers give equal blocks while nothing changes. Cost: linear in pages, at
  // worst; O(1) where most are cached.
  struct Sample {
    Namespace name_space;
    std::vector<TokenId> tokens;
  };
  [[nodiscard]] std::optional<Sample> sample(std::uint64_t random, int blocks = 1) const;
  // The pages that hold the last of these tokens, of each slice of that block, nullptr where a sliding window's is not
  // kept; nullopt: the block is not cached (any more). Valid until the cache changes. Requires: whole blocks.
  using BlockPages = std::array<const std::byte*, kAllSlices>;
  [[nodiscard]] std::optional<BlockPages> pages_of(const Namespace& name_space, std::span<const TokenId> tokens) const;
  // From now on nothing of this namespace is reused, now or later: open() serves it as open_private() does.
  void quarantine(const Namespace& name_space);
  // False for a table opened in a namespace that has come into quarantine since.
  [[nodiscard]] bool is_trusted(const BlockTable& table) const;
  // True if `pages` more could be had by allocating and evicting everything evictable.
  [[nodiscard]] bool could_fit(std::uint64_t pages) const;
  // Drops every block no table pins, and what the index remembers of evicted ones; gives every
  // extent that is empty then back to the budget.
  void clear();
  // Gives up what the policy puts first, and empty extents, until the budget's use is at most `bytes` or only
  // tables' blocks are left. More may go than `bytes` asks for: an extent is given back when all of it is free.
  void shrink(std::uint64_t bytes);
  [[nodiscard]] CacheStats stats() const;
  // In bytes, what a page takes.
  [[nodiscard]] std::uint64_t page_stride() const;
  // Empty if sound, else the first violation as a sentence. Cost: linear in pages and nodes.
  [[nodiscard]] std::string check_invariants() const;
  [[nodiscard]] const KvLayout& layout() const;

 private:
  friend class BlockTable;
  struct Impl;
  explicit KvCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
