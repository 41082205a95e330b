#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cache/block_pool.hpp"
#include "cache/checkpoints.hpp"
#include "cache/kv_cache.hpp"
#include "cache/prefix_index.hpp"
#include "cache/table_state.hpp"

namespace dalsegno {

[[nodiscard]] inline std::size_t blocks_for(int tokens) {
  return static_cast<std::size_t>((tokens + kBlockTokens - 1) / kBlockTokens);
}

struct KvCache::Impl {
  Impl(const KvCacheOptions& kv_options, std::unique_ptr<BlockPool> block_pool, std::uint32_t ghosts,
       Reservation reserved, const EvictionPolicy& policy)
      : options(kv_options),
        layout(options.layout),
        pool(std::move(block_pool)),
        index(
            pool->limit() + pool->empty_limit(), ghosts, *options.budget, std::move(reserved), policy,
            [this](int block) { return layout.full_pages(block); },
            [this](int block) { return layout.window_pages(block); }),
        checkpoints(layout, *pool, index),
        memory(*options.budget) {}

  // kv_cache.cpp: pages.
  // The pool counts references; the index is told when the last table lets go of one of its pages.
  void retain(PageId page);
  void release(PageId page, bool child_held = false);
  [[nodiscard]] std::uint64_t evictable() const;
  // The place where the choice of what to forget is made, counted as `why`. False: nothing can be.
  bool evict_one(std::uint64_t EvictedBlocks::*why);
  struct Blocks {
    std::vector<PageId> full;
    std::vector<PageId> window;
  };
  // Of a sequence: [begin, end).
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  // What extend() allocates; the first may be a copy of the last block, which others share.
  struct Wanted {
    Range full{};
    Range window{};
    bool copies_full = false;
    bool copies_window = false;
  };
  // nullopt: the table has room for so many.
  [[nodiscard]] std::optional<Wanted> wanted(const BlockTable::State& table, int more, int rows) const;
  // Pages of these blocks for each group, or nothing; what cannot fit evicts nothing. Where the tree's quota is full,
  // its own blocks make room.
  std::optional<Blocks> allocate(PrefixTree& tree, Range full, Range window);
  std::optional<PageId> allocate(int pages);
  [[nodiscard]] std::uint64_t pages_in(Range full, Range window) const;
  [[nodiscard]] bool could_fit(Range full, Range window) const;
  [[nodiscard]] bool could_fit_empty(Range full) const;  // of them those without pages
  // Whether allocate() would give them without evicting or reserving anything.
  [[nodiscard]] bool lie_free(const PrefixTree& tree, Range full, Range window) const;
  void copy(PageId from, PageId to);
  void remove_leaf(IndexNode& leaf, PrefixIndex::Remember remember);

  // kv_cache_retention.cpp
  void expire();
  void claim(IndexNode& node, const Retention& retention);
  [[nodiscard]] std::uint64_t quota_of(const Namespace& name_space) const;
  // Evicts the tree's own blocks until its quota has room for `pages` more, or none is left that could go.
  void trim(PrefixTree& tree, std::uint64_t pages = 0);
  [[nodiscard]] Result<void> check_pin(const PrefixTree* tree, std::uint64_t quota, std::uint64_t pages) const;
  void unpin(BlockTable::State& table);

  // kv_cache.cpp: opening and ending.
  BlockTable make_table(KvCache& cache, PrefixTree& tree);
  void start_at(BlockTable::State& table, const PrefixIndex::Match& match, int tokens);
  bool copy_partial(BlockTable::State& table, const PrefixIndex::Match& match, int tokens);
  void let_go(BlockTable::State& table);
  void finish(std::unique_ptr<BlockTable::State> table);
  void empty(PrefixTree& tree);

  // kv_cache_tables.cpp
  IndexNode& put(BlockTable::State& table, std::span<const TokenId> tokens);
  void publish(BlockTable::State& table);
  void publish_partial(BlockTable::State& table);
  void slide(BlockTable::State& table);
  void take_room_back(BlockTable::State& table);
  void go_back(BlockTable::State& table, int tokens);
  void list(BlockTable::State& table, std::size_t block, PageId chain, int slice);

  // kv_cache_check.cpp
  [[nodiscard]] std::string check_table(const BlockTable::State& table) const;
  [[nodiscard]] std::string check_references() const;

  const KvCacheOptions options;
  const KvLayout& layout;
  const std::unique_ptr<BlockPool> pool;
  PrefixIndex index;
  Checkpoints checkpoints;
  const MemoryBudget& memory;
  std::vector<BlockTable::State*> tables;  // open
  std::set<Namespace> quarantined;
  EvictedBlocks evicted;
  Histogram unused_for;
  std::uint64_t pinned_pages = 0;
};

}  // namespace dalsegno
