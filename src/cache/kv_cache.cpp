#include "cache/kv_cache.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "cache/kv_cache_impl.hpp"

namespace dalsegno {
namespace {

constexpr std::uint32_t kMostPages = std::numeric_limits<std::int32_t>::max();

bool is_possible(const KvLayout& layout) {
  constexpr int kMost = 1 << 16;  // three of these and 16 tokens in f32 stay below 2^63 bytes
  const auto in_range = [](int value) { return value > 0 && value <= kMost; };
  return in_range(layout.layers) && in_range(layout.kv_heads) && in_range(layout.head_dim);
}

// Blocks of which the index keeps no pages, where every layer has a window: enough for two sequences, and as many as
// there are pages or take a hundredth of what the pages do.
std::uint32_t most_empty(const KvCacheOptions& options, std::uint32_t pages) {
  if (!options.layout.slides() || options.layout.full_pages(options.layout.sink_blocks) > 0) return 0;
  const std::uint64_t sequences = 2 * (static_cast<std::uint64_t>(options.most_tokens) / kBlockTokens + 1);
  const std::uint64_t hundredth = pages * std::uint64_t{options.layout.page_bytes()} / 100 / PrefixIndex::block_bytes();
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(sequences + std::max<std::uint64_t>(pages, hundredth), kMostPages));
}

// What a cache of `pool.max_pages` pages takes from the budget in all.
std::uint64_t bytes_in_all(const BlockPoolOptions& pool, std::uint32_t ghosts) {
  return pool.max_pages * std::uint64_t{BlockPool::stride_of(pool.page_bytes)} + BlockPool::bookkeeping_bytes(pool) +
         PrefixIndex::bytes_for(pool.max_pages + pool.max_empty, ghosts);
}

// What a cache with room for so many pages takes from the budget in all.
std::uint64_t bytes_with(const KvCacheOptions& options, std::uint32_t pages) {
  BlockPoolOptions pool{
      .page_bytes = options.layout.page_bytes(), .max_pages = pages, .extent_bytes = options.extent_bytes};
  pool.max_empty = most_empty(options, pages);
  return bytes_in_all(pool, std::min(options.max_ghosts, pages));
}

// The most pages that fit max_bytes and what the budget has left.
std::uint32_t most_pages(const KvCacheOptions& options) {
  const std::uint64_t by_bytes = options.max_bytes / BlockPool::stride_of(options.layout.page_bytes());
  std::uint32_t fits = 0;
  auto too_many = static_cast<std::uint32_t>(std::min<std::uint64_t>(by_bytes, kMostPages)) + 1;
  while (too_many - fits > 1) {
    const std::uint32_t pages = fits + (too_many - fits) / 2;
    (bytes_with(options, pages) <= options.budget->free_bytes() ? fits : too_many) = pages;
  }
  return fits;
}

}  // namespace

Result<std::unique_ptr<KvCache>> KvCache::create(const KvCacheOptions& options) {
  if (options.budget == nullptr || !is_possible(options.layout)) {
    return Error{ErrorCode::invalid_argument, "a K/V cache needs a budget and at least one layer, head and dimension"};
  }
  BlockPoolOptions pool_options{.page_bytes = options.layout.page_bytes(),
                                .max_pages = 0,
                                .max_empty = 0,
                                .budget = options.budget,
                                .extent_bytes = options.extent_bytes};
  pool_options.max_pages = most_pages(options);
  pool_options.max_empty = most_empty(options, pool_options.max_pages);
  if (pool_options.max_pages < static_cast<std::uint32_t>(options.layout.most_pages_in_block())) {
    return Error{ErrorCode::exhausted,
                 fmt::format("no room for K/V: a block of {} tokens needs {}", kBlockTokens,
                             too_much_for(*options.budget, bytes_needed(options, 1, 1),
                                          std::min(options.max_bytes, options.budget->free_bytes())))};
  }
  const std::uint32_t ghosts = std::min(options.max_ghosts, pool_options.max_pages);
  DALSEGNO_ASSIGN(policy, find_eviction_policy(options.eviction));
  DALSEGNO_ASSIGN(pool, BlockPool::create(pool_options));
  DALSEGNO_ASSIGN(
      reserved, options.budget->reserve(MemoryKind::index,
                                        PrefixIndex::bytes_for(pool_options.max_pages + pool_options.max_empty, ghosts),
                                        "the prefix index"));
  auto impl = std::make_unique<Impl>(options, std::move(pool), ghosts, std::move(reserved), *policy);
  return std::unique_ptr<KvCache>(new KvCache(std::move(impl)));
}

KvCache::KvCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

KvCache::~KvCache() {
  for (BlockTable::State* table : impl_->tables) table->cache = nullptr;
}

// --- Pages ---

void KvCache::Impl::retain(PageId page) {
  pool->retain(page);
  if (IndexNode* node = index.node_of(page)) index.set_held(*node, true);
}

void KvCache::Impl::release(PageId page, bool child_held) {
  if (pool->release(page) != 1) return;
  if (IndexNode* node = index.node_of(page)) index.set_held(*node, false, child_held);
}

std::uint64_t KvCache::Impl::evictable() const {
  return index.evictable_pages() + checkpoints.evictable();
}

// What the policy puts first. A checkpoint was made or resumed from before the sequence below it ended, so those of a
// conversation go before the blocks that would be useless without them, from its beginning to its end.
bool KvCache::Impl::evict_one(std::uint64_t EvictedBlocks::*why) {
  IndexNode* leaf = index.least();
  IndexNode* mark = checkpoints.oldest();
  if (mark != nullptr && (leaf == nullptr || index.order().goes_before(*mark, mark->mark_use, *leaf))) {
    checkpoints.unmark(*mark);
    ++evicted.checkpoints;
    return true;
  }
  if (leaf == nullptr) return false;
  if (why == &EvictedBlocks::room) unused_for.add(index.order().unused_for(*leaf));
  checkpoints.unmark(*leaf);
  pool->release(index.evict(PrefixIndex::Remember::yes));
  ++(evicted.*why);
  return true;
}

void KvCache::Impl::remove_leaf(IndexNode& leaf, PrefixIndex::Remember remember) {
  checkpoints.unmark(leaf);
  pool->release(index.remove(leaf, remember));
}

std::uint64_t KvCache::Impl::pages_in(Range full, Range window) const {
  std::uint64_t pages = 0;
  for (std::size_t block = full.begin; block < full.end; ++block) {
    pages += static_cast<std::uint64_t>(layout.full_pages(static_cast<int>(block)));
  }
  for (std::size_t block = window.begin; block < window.end; ++block) {
    pages += static_cast<std::uint64_t>(layout.window_pages(static_cast<int>(block)));
  }
  return pages;
}

bool KvCache::Impl::could_fit(Range full, Range window) const {
  const std::uint64_t pages = pages_in(full, window);
  return (pool->available() >= pages || pool->available() + evictable() >= pages) && could_fit_empty(full);
}

bool KvCache::Impl::could_fit_empty(Range full) const {
  std::uint64_t empty = 0;
  for (std::size_t block = full.begin; block < full.end; ++block) {
    empty += layout.full_pages(static_cast<int>(block)) == 0 ? 1 : 0;
  }
  return pool->empty_available() >= empty || pool->empty_available() + index.evictable_empty() >= empty;
}

bool KvCache::Impl::lie_free(const PrefixTree& tree, Range full, Range window) const {
  const std::uint64_t pages = pages_in(full, window);
  const std::uint64_t blocks = full.end - full.begin;
  const bool within_quota = tree.share == nullptr || tree.share->pages + pages <= tree.share->quota;
  return within_quota && pool->free() >= pages && pool->empty_available() >= blocks * (pool->empty_limit() > 0 ? 1 : 0);
}

// Where some blocks hold codes and others values, what was left behind in a page need not be finite to its next user.
std::optional<PageId> KvCache::Impl::allocate(int pages) {
  std::optional<PageId> chain = pool->allocate(pages);
  while (!chain && evict_one(&EvictedBlocks::room)) chain = pool->allocate(pages);
  for (PageId page = chain && layout.start > 0 ? *chain : kNoPage; page != kNoPage && pages > 0;
       page = pool->next(page)) {
    std::memset(pool->address(page), 0, layout.page_bytes());
  }
  return chain;
}

std::optional<KvCache::Impl::Blocks> KvCache::Impl::allocate(PrefixTree& tree, Range full, Range window) {
  if (!could_fit(full, window)) return std::nullopt;
  const std::uint64_t needed = pages_in(full, window);
  if (pool->available() < needed) expire();
  trim(tree, needed);
  Blocks blocks;
  const auto fill = [&](Range range, std::vector<PageId>& chains, auto pages_of) {
    chains.reserve(range.end - range.begin);
    for (std::size_t block = range.begin; block < range.end; ++block) {
      const auto chain = pages_of(static_cast<int>(block));
      if (!chain) return false;
      chains.push_back(*chain);
    }
    return true;
  };
  const auto of_window = [this](int block) {
    const int pages = layout.window_pages(block);
    return pages > 0 ? allocate(pages) : std::optional(kNoPage);
  };
  if (fill(full, blocks.full, [this](int block) { return allocate(layout.full_pages(block)); }) &&
      fill(window, blocks.window, of_window)) {
    return blocks;
  }
  for (const PageId page : blocks.full) pool->release(page);
  for (const PageId page : blocks.window) {
    if (page != kNoPage) pool->release(page);
  }
  return std::nullopt;
}

void KvCache::Impl::copy(PageId from, PageId to) {
  if (from == kNoPage || pool->is_empty(from)) return;
  for (; from != kNoPage; from = pool->next(from), to = pool->next(to)) {
    std::memcpy(pool->address(to), pool->address(from), layout.page_bytes());
  }
}

// --- Opening and ending ---

BlockTable KvCache::Impl::make_table(KvCache& cache, PrefixTree& tree) {
  auto state = std::make_unique<BlockTable::State>();
  state->cache = &cache;
  state->tree = &tree;
  state->at = &tree;
  const int slices = layout.start > 0 ? kMostSlices + layout.early.slices : layout.division.slices;
  state->addresses.resize(static_cast<std::size_t>(slices));
  state->slot = tables.size();
  tables.push_back(state.get());
  return BlockTable(std::move(state));
}

// The whole blocks among the first `tokens` tokens of the match, and of their window pages those still needed.
void KvCache::Impl::start_at(BlockTable::State& table, const PrefixIndex::Match& match, int tokens) {
  const int blocks = tokens / kBlockTokens;
  if (blocks > 0) {
    table.at = match.blocks[static_cast<std::size_t>(blocks) - 1];
    retain(table.at->page);
  }
  table.tokens = blocks * kBlockTokens;
  if (!checkpoints.needed()) return;
  table.first_window = checkpoints.first_block(tokens);
  for (int block = table.first_window; block < blocks; ++block) {
    table.window.push_back(match.blocks[static_cast<std::size_t>(block)]->window);
    checkpoints.retain(table.window.back());
  }
}

// The rest of the pages belongs to another continuation: finite, and never attended to.
bool KvCache::Impl::copy_partial(BlockTable::State& table, const PrefixIndex::Match& match, int tokens) {
  const auto block = static_cast<std::size_t>(tokens / kBlockTokens);
  const IndexNode& source = block < match.blocks.size() ? *match.blocks[block] : *match.partial;
  const PageId full = source.page;
  const PageId window = source.window;
  const bool with_window = checkpoints.needed();
  retain(full);  // allocate() must not evict what is being copied
  if (with_window) checkpoints.retain(window);
  const auto pages = allocate(*table.tree, {block, block + 1}, {block, with_window ? block + 1 : block});
  if (pages) {
    copy(full, pages->full.front());
    table.full.push_back(pages->full.front());
    if (with_window) {
      copy(window, pages->window.front());
      table.window.push_back(pages->window.front());
    }
    std::copy_n(source.tokens.begin(), tokens % kBlockTokens, table.partial.begin());
    table.tokens = tokens;
  }
  release(full);
  if (with_window) checkpoints.release(window);
  return pages.has_value();
}

// From the beginning of the window on, and the last block last, so that it counts as used last.
void KvCache::Impl::let_go(BlockTable::State& table) {
  unpin(table);
  if (table.at != table.tree) claim(*table.at, table.retention);
  for (const PageId page : table.window) checkpoints.release(page);
  for (const PageId page : table.full) release(page);
  if (table.at != table.tree) release(table.at->page);
  table.window.clear();
  table.full.clear();
  table.at = table.tree;
  table.tokens = 0;
}

void KvCache::Impl::finish(std::unique_ptr<BlockTable::State> table) {
  let_go(*table);
  trim(*table->tree);
  if (table->is_private() && table->tree->tables == 1) empty(*table->tree);
  index.leave(*table->tree);
  tables[table->slot] = tables.back();
  tables[table->slot]->slot = table->slot;
  tables.pop_back();
}

void KvCache::Impl::empty(PrefixTree& tree) {
  for (IndexNode* at = &tree; at != &tree || !at->children.empty();) {
    if (!at->children.empty()) {
      at = &*at->children.begin();
    } else {
      IndexNode* parent = at->parent;
      remove_leaf(*at, PrefixIndex::Remember::no);
      at = parent;
    }
  }
}

KvCache::Opened KvCache::open(const Namespace& name_space, std::span<const TokenId> tokens, int limit,
                              const Retention& retention) {
  assert(limit >= 0 && static_cast<std::size_t>(limit) <= tokens.size());
  if (impl_->quarantined.contains(name_space)) return {open_private(), 0, Stopped::off, 0};
  const auto wanted = tokens.first(static_cast<std::size_t>(limit));
  impl_->expire();
  impl_->index.begin_request();
  PrefixTree* tree = impl_->index.enter(name_space, impl_->quota_of(name_space));
  PrefixIndex::Match match = tree == nullptr ? PrefixIndex::Match{} : impl_->index.match(*tree, wanted);
  const Stopped why = impl_->index.why(name_space, tree, match, wanted);
  const int at = match.tokens();
  int reused = impl_->checkpoints.resumable(match);
  Opened opened{impl_->make_table(*this, tree == nullptr ? impl_->index.enter_private() : *tree), reused,
                reused < at ? Stopped::window : why, at};
  BlockTable::State& table = *opened.table.state_;
  table.retention = retention;
  impl_->start_at(table, match, reused);
  if (reused % kBlockTokens > 0 && !impl_->copy_partial(table, match, reused)) {
    impl_->let_go(table);
    match.blocks.resize(static_cast<std::size_t>(reused / kBlockTokens));
    match.partial_tokens = 0;
    opened.stopped = Stopped::evicted;
    opened.at = match.tokens();
    reused = impl_->checkpoints.resumable(match);
    impl_->start_at(table, match, reused);
  }
  if (reused > 0) {
    const auto last = static_cast<std::size_t>((reused - 1) / kBlockTokens);
    impl_->checkpoints.touch(last < match.blocks.size() ? *match.blocks[last] : *match.partial);
    impl_->index.hit(match, reused);
    impl_->claim(last < match.blocks.size() ? *match.blocks[last] : *match.partial, retention);
  }
  // Where one sequence leaves another, a third may.
  if (why == Stopped::diverged && at / kBlockTokens > 0) {
    if (at / kBlockTokens > table.tokens / kBlockTokens) {
      expect_end(opened.table, at / kBlockTokens * kBlockTokens);
    } else if (table.at != table.tree) {
      impl_->checkpoints.mark(*table.at, true);
    }
  }
  table.capacity = table.window_capacity = table.tokens;
  opened.reused = table.tokens;
  return opened;
}

BlockTable KvCache::open_private() {
  return impl_->make_table(*this, impl_->index.enter_private());
}

KvCache::Preview KvCache::preview(const Namespace& name_space, std::span<const TokenId> tokens, int limit) const {
  assert(limit >= 0 && static_cast<std::size_t>(limit) <= tokens.size());
  if (impl_->quarantined.contains(name_space)) return {0, Stopped::off, 0};
  impl_->expire();
  const auto wanted = tokens.first(static_cast<std::size_t>(limit));
  const PrefixTree* tree = impl_->index.find(name_space);
  const PrefixIndex::Match match = tree == nullptr ? PrefixIndex::Match{} : impl_->index.match(*tree, wanted);
  const int reused = impl_->checkpoints.resumable(match);
  const Stopped why = impl_->index.why(name_space, tree, match, wanted);
  return {reused, reused < match.tokens() ? Stopped::window : why, match.tokens()};
}

void KvCache::close(BlockTable&& table) {
  if (!table.is_open()) return;
  auto state = std::move(table.state_);
  if (!state->is_private()) impl_->publish_partial(*state);
  impl_->finish(std::move(state));
}

void KvCache::discard(BlockTable&& table) {
  if (table.is_open()) impl_->finish(std::move(table.state_));
}

// --- Looking ---

bool KvCache::could_fit(std::uint64_t pages) const {
  return impl_->pool->available() + impl_->evictable() >= pages;
}

std::uint64_t KvCache::bytes_for(int tokens, int rows) const {
  return impl_->layout.pages_for(tokens, rows) * BlockPool::stride_of(impl_->layout.page_bytes());
}

std::uint64_t KvCache::bytes_needed(const KvCacheOptions& options, int tokens, int rows) {
  const auto block = static_cast<std::uint64_t>(options.layout.most_pages_in_block());
  const std::uint64_t pages = std::max(block, options.layout.pages_for(tokens, rows));
  return bytes_with(options, static_cast<std::uint32_t>(std::min<std::uint64_t>(pages, kMostPages)));
}

int KvCache::most_tokens(int rows) const {
  const std::uint64_t pages = impl_->pool->limit();
  const std::uint64_t empty = impl_->pool->empty_limit();
  const auto holds = [&](int tokens) {
    const auto blocks = static_cast<std::uint64_t>(tokens) / kBlockTokens + 1;
    return impl_->layout.pages_for(tokens, rows) <= pages && (empty == 0 || blocks <= empty);
  };
  int fits = 0;
  for (int too_many = std::numeric_limits<int>::max() / 2; too_many - fits > 1;) {
    const int middle = fits + (too_many - fits) / 2;
    (holds(middle) ? fits : too_many) = middle;
  }
  return fits;
}

void KvCache::clear() {
  impl_->index.forget_ghosts();
  while (IndexNode* mark = impl_->checkpoints.oldest()) impl_->checkpoints.unmark(*mark);
  while (IndexNode* leaf = impl_->index.least()) {
    impl_->remove_leaf(*leaf, PrefixIndex::Remember::no);
    ++impl_->evicted.cleared;
  }
  impl_->pool->give_back();
}

// To give back so many bytes at least as many must be free, so each round overshoots only by what lies scattered.
void KvCache::shrink(std::uint64_t bytes) {
  Impl& self = *impl_;
  self.pool->give_back();
  while (self.memory.used() > bytes) {
    const std::uint64_t excess = self.memory.used() - bytes;
    const std::uint64_t most = std::max<std::uint64_t>(1, excess / self.layout.block_bytes());
    std::uint64_t gone = 0;
    while (gone < most && self.evict_one(&EvictedBlocks::limit)) ++gone;
    self.pool->give_back();
    if (gone == 0) return;
  }
}

CacheStats KvCache::stats() const {
  const Impl& self = *impl_;
  return {
      .pages_used = self.pool->used(),
      .pages_evictable = self.evictable(),
      .pages_limit = self.pool->limit(),
      .pages_free = self.pool->committed_bytes() / BlockPool::stride_of(self.layout.page_bytes()) - self.pool->used(),
      .evicted = self.evicted,
      .unused_for = self.unused_for,
      .blocks_pinned = self.index.pinned(),
      .pages_pinned = self.pinned_pages,
      .index_nodes = self.index.live() + self.index.ghosts(),
      .index_bytes = self.index.bytes(),
      .blocks = self.index.live(),
      .window_blocks = self.checkpoints.windows(),
      .checkpoints = self.checkpoints.count()};
}

std::uint64_t KvCache::page_stride() const {
  return BlockPool::stride_of(impl_->layout.page_bytes());
}

const KvLayout& KvCache::layout() const {
  return impl_->layout;
}

}  // namespace dalsegno
