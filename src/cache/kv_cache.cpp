#include "cache/kv_cache.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "cache/block_pool.hpp"
#include "cache/block_table.hpp"
#include "cache/prefix_index.hpp"
#include "cache/table_state.hpp"

namespace dalsegno {
namespace {

constexpr std::uint32_t kMostPages = std::numeric_limits<std::int32_t>::max();

std::size_t blocks_for(int tokens) {
  return static_cast<std::size_t>((tokens + kBlockTokens - 1) / kBlockTokens);
}

bool is_possible(const KvLayout& layout) {
  constexpr int kMost = 1 << 16;  // three of these and 16 tokens in f32 stay below 2^63 bytes
  const auto in_range = [](int value) { return value > 0 && value <= kMost; };
  return in_range(layout.layers) && in_range(layout.kv_heads) && in_range(layout.head_dim);
}

// What a cache of `pool.max_pages` pages takes from the budget in all.
std::uint64_t bytes_in_all(const BlockPoolOptions& pool, std::uint32_t ghosts) {
  return pool.max_pages * std::uint64_t{BlockPool::stride_of(pool.page_bytes)} + BlockPool::bookkeeping_bytes(pool) +
         PrefixIndex::bytes_for(pool.max_pages, ghosts);
}

// The most pages that fit max_bytes and what the budget has left.
std::uint32_t most_pages(BlockPoolOptions pool, const KvCacheOptions& options) {
  const std::uint64_t by_bytes = options.max_bytes / BlockPool::stride_of(pool.page_bytes);
  std::uint32_t fits = 0;
  auto too_many = static_cast<std::uint32_t>(std::min<std::uint64_t>(by_bytes, kMostPages)) + 1;
  while (too_many - fits > 1) {
    pool.max_pages = fits + (too_many - fits) / 2;
    const std::uint32_t ghosts = std::min(options.max_ghosts, pool.max_pages);
    (bytes_in_all(pool, ghosts) <= options.budget->free_bytes() ? fits : too_many) = pool.max_pages;
  }
  return fits;
}

}  // namespace

struct KvCache::Impl {
  Impl(const KvLayout& kv_layout, std::unique_ptr<BlockPool> block_pool, std::uint32_t ghosts, MemoryBudget& budget,
       Reservation reserved)
      : layout(kv_layout), pool(std::move(block_pool)), index(pool->limit(), ghosts, budget, std::move(reserved)) {}

  // The pool counts references; the index is told when the last table lets go of one of its pages.
  void retain(PageId page) {
    pool->retain(page);
    if (IndexNode* node = index.node_of(page)) index.set_held(*node, true);
  }
  void release(PageId page) {
    if (pool->release(page) != 1) return;
    if (IndexNode* node = index.node_of(page)) index.set_held(*node, false);
  }

  std::optional<PageId> allocate();
  std::optional<std::vector<PageId>> allocate(std::size_t count);
  BlockTable make_table(KvCache& cache, PrefixTree* tree);
  void append(BlockTable::State& table, PageId page);
  void set_addresses(BlockTable::State& table, std::size_t block);
  void adopt(BlockTable::State& table, const PrefixIndex::Match& match);
  bool copy_partial(BlockTable::State& table, const PrefixIndex::Match& match);
  void publish(BlockTable::State& table);
  void publish_partial(BlockTable::State& table);
  void take_room_back(BlockTable::State& table);
  void finish(std::unique_ptr<BlockTable::State> table);
  [[nodiscard]] std::string check_table(const BlockTable::State& table) const;
  [[nodiscard]] std::string check_references() const;

  const KvLayout layout;
  const std::unique_ptr<BlockPool> pool;
  PrefixIndex index;
  std::vector<BlockTable::State*> tables;  // open
  std::uint64_t evictions = 0;
};

Result<std::unique_ptr<KvCache>> KvCache::create(const KvCacheOptions& options) {
  if (options.budget == nullptr || !is_possible(options.layout)) {
    return Error{ErrorCode::invalid_argument, "a K/V cache needs a budget and at least one layer, head and dimension"};
  }
  BlockPoolOptions pool_options{.page_bytes = options.layout.block_bytes(),
                                .max_pages = 0,
                                .budget = options.budget,
                                .extent_bytes = options.extent_bytes};
  pool_options.max_pages = most_pages(pool_options, options);
  if (pool_options.max_pages == 0) {
    return Error{ErrorCode::exhausted,
                 fmt::format("no room for K/V: a block of {} tokens takes {}, but only {} of the memory budget of {} "
                             "are free; raise --memory",
                             kBlockTokens, human_bytes(pool_options.page_bytes),
                             human_bytes(std::min(options.max_bytes, options.budget->free_bytes())),
                             human_bytes(options.budget->limit()))};
  }
  const std::uint32_t ghosts = std::min(options.max_ghosts, pool_options.max_pages);
  DALSEGNO_ASSIGN(pool, BlockPool::create(pool_options));
  DALSEGNO_ASSIGN(reserved,
                  options.budget->reserve(MemoryKind::index, PrefixIndex::bytes_for(pool_options.max_pages, ghosts),
                                          "the prefix index"));
  auto impl = std::make_unique<Impl>(options.layout, std::move(pool), ghosts, *options.budget, std::move(reserved));
  return std::unique_ptr<KvCache>(new KvCache(std::move(impl)));
}

KvCache::KvCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

KvCache::~KvCache() {
  for (BlockTable::State* table : impl_->tables) table->cache = nullptr;
}

// --- Pages and tables ---

std::optional<PageId> KvCache::Impl::allocate() {
  for (;;) {
    if (const auto page = pool->allocate()) return page;
    const PageId victim = index.evict(PrefixIndex::Remember::yes);
    if (victim == kNoPage) return std::nullopt;
    pool->release(victim);
    ++evictions;
  }
}

std::optional<std::vector<PageId>> KvCache::Impl::allocate(std::size_t count) {
  if (pool->available() + index.evictable() < count) return std::nullopt;
  std::vector<PageId> pages;
  pages.reserve(count);
  while (pages.size() < count) {
    const auto page = allocate();
    if (!page) {
      for (const PageId taken : pages) pool->release(taken);
      return std::nullopt;
    }
    pages.push_back(*page);
  }
  return pages;
}

BlockTable KvCache::Impl::make_table(KvCache& cache, PrefixTree* tree) {
  auto state = std::make_unique<BlockTable::State>();
  state->cache = &cache;
  state->tree = tree;
  state->slot = tables.size();
  tables.push_back(state.get());
  return BlockTable(std::move(state));
}

void KvCache::Impl::append(BlockTable::State& table, PageId page) {
  table.pages.push_back(page);
  std::byte* memory = pool->address(page);
  table.addresses[0].push_back(memory);
  if (layout.groups() > 1) table.addresses[1].push_back(memory + layout.page_bytes(0));
}

void KvCache::Impl::set_addresses(BlockTable::State& table, std::size_t block) {
  std::byte* memory = pool->address(table.pages[block]);
  table.addresses[0][block] = memory;
  if (layout.groups() > 1) table.addresses[1][block] = memory + layout.page_bytes(0);
}

// Room that fork() or rewind() takes back must be made again, since the last page may be shared by then.
void KvCache::Impl::take_room_back(BlockTable::State& table) {
  const std::size_t keep = blocks_for(table.tokens);
  for (std::size_t block = keep; block < table.pages.size(); ++block) release(table.pages[block]);
  table.pages.resize(keep);
  for (auto& addresses : table.addresses) addresses.resize(std::min(addresses.size(), keep));
  table.capacity = table.tokens;
}

// From the root down, so that the index counts the deepest block as the one used last.
void KvCache::Impl::finish(std::unique_ptr<BlockTable::State> table) {
  for (const PageId page : table->pages) release(page);
  if (table->tree != nullptr) index.leave(*table->tree);
  tables[table->slot] = tables.back();
  tables[table->slot]->slot = table->slot;
  tables.pop_back();
}

// --- Opening ---

void KvCache::Impl::adopt(BlockTable::State& table, const PrefixIndex::Match& match) {
  for (IndexNode* node : match.blocks) {
    retain(node->page);
    append(table, node->page);
    table.nodes.push_back(node);
  }
  table.tokens = static_cast<int>(match.blocks.size()) * kBlockTokens;
}

// The rest of the page belongs to another continuation: finite, and never attended to.
bool KvCache::Impl::copy_partial(BlockTable::State& table, const PrefixIndex::Match& match) {
  const PageId source = match.partial->page;
  retain(source);  // allocate() must not evict what is being copied
  const auto page = allocate();
  if (page) {
    std::memcpy(pool->address(*page), pool->address(source), layout.block_bytes());
    append(table, *page);
    std::copy_n(match.partial->tokens.begin(), match.partial_tokens, table.partial.begin());
    table.tokens += match.partial_tokens;
  }
  release(source);
  return page.has_value();
}

KvCache::Opened KvCache::open(const Namespace& name_space, std::span<const TokenId> tokens, int limit) {
  assert(limit >= 0 && static_cast<std::size_t>(limit) <= tokens.size());
  const auto wanted = tokens.first(static_cast<std::size_t>(limit));
  PrefixTree* tree = impl_->index.enter(name_space);
  const PrefixIndex::Match match = tree == nullptr ? PrefixIndex::Match{} : impl_->index.match(*tree, wanted);
  Opened opened{impl_->make_table(*this, tree), 0, impl_->index.why(tree, match, wanted), 0};
  BlockTable::State& table = *opened.table.state_;
  impl_->adopt(table, match);
  if (match.partial != nullptr && !impl_->copy_partial(table, match)) opened.stopped = Stopped::evicted;
  table.capacity = table.tokens;
  opened.reused = opened.at = table.tokens;
  return opened;
}

BlockTable KvCache::open_private() {
  return impl_->make_table(*this, nullptr);
}

KvCache::Preview KvCache::preview(const Namespace& name_space, std::span<const TokenId> tokens, int limit) const {
  assert(limit >= 0 && static_cast<std::size_t>(limit) <= tokens.size());
  const auto wanted = tokens.first(static_cast<std::size_t>(limit));
  const PrefixTree* tree = impl_->index.find(name_space);
  const PrefixIndex::Match match = tree == nullptr ? PrefixIndex::Match{} : impl_->index.match(*tree, wanted);
  return {match.tokens(), impl_->index.why(tree, match, wanted), match.tokens()};
}

// --- Filling ---

Result<void> KvCache::extend(BlockTable& table, int more) {
  assert(table.is_open() && more >= 0);
  BlockTable::State& state = *table.state_;
  if (more > std::numeric_limits<int>::max() - kBlockTokens - state.tokens) {
    return Error{ErrorCode::exhausted, "a sequence cannot hold that many tokens; shorten the prompt or --max-tokens"};
  }
  if (state.tokens + more <= state.capacity) return {};
  const std::size_t last = state.full_blocks();
  const bool copy = state.partial_tokens() > 0 && impl_->pool->references(state.pages[last]) > 1;
  const std::size_t blocks = blocks_for(state.tokens + more);
  auto pages = impl_->allocate(blocks - state.pages.size() + (copy ? 1 : 0));
  if (!pages) {
    return Error{ErrorCode::exhausted,
                 fmt::format("no room for the K/V of {} more tokens: running requests hold {} of {} blocks of {}; "
                             "raise --memory or shorten the prompt",
                             more, impl_->pool->used() - impl_->index.evictable(), impl_->pool->limit(),
                             human_bytes(impl_->layout.block_bytes()))};
  }
  if (copy) {
    const PageId shared = std::exchange(state.pages[last], pages->back());
    pages->pop_back();
    std::memcpy(impl_->pool->address(state.pages[last]), impl_->pool->address(shared), impl_->layout.block_bytes());
    impl_->set_addresses(state, last);
    impl_->release(shared);
  }
  for (const PageId page : *pages) impl_->append(state, page);
  state.capacity = static_cast<int>(blocks) * kBlockTokens;
  return {};
}

void KvCache::commit(BlockTable& table, std::span<const TokenId> tokens) {
  assert(table.is_open());
  BlockTable::State& state = *table.state_;
  assert(tokens.size() <= static_cast<std::size_t>(state.capacity - state.tokens) && "extend() before commit()");
  for (const TokenId token : tokens) {
    state.partial[state.partial_tokens()] = token;
    ++state.tokens;
    if (state.partial_tokens() == 0 && state.tree != nullptr) impl_->publish(state);
  }
}

// The place where tokens become reusable: the block just filled joins the index, or makes way for
// the same block of another sequence.
void KvCache::Impl::publish(BlockTable::State& table) {
  const std::size_t block = table.nodes.size();
  const PageId own = table.pages[block];
  const PrefixIndex::Inserted inserted = index.insert(table.parent(), table.partial, own);
  if (inserted.added) {
    pool->retain(own);
  } else {
    retain(inserted.node->page);
    table.pages[block] = inserted.node->page;
    set_addresses(table, block);
    release(own);
  }
  if (inserted.dropped != kNoPage) pool->release(inserted.dropped);
  table.nodes.push_back(inserted.node);
}

void KvCache::Impl::publish_partial(BlockTable::State& table) {
  const auto tokens = std::span<const TokenId>(table.partial).first(table.partial_tokens());
  const PageId own = table.pages[table.full_blocks()];
  const PrefixIndex::Inserted inserted = index.insert(table.parent(), tokens, own);
  if (inserted.added) pool->retain(own);
  if (inserted.dropped != kNoPage) pool->release(inserted.dropped);
}

void KvCache::close(BlockTable&& table) {
  if (!table.is_open()) return;
  auto state = std::move(table.state_);
  if (state->tree != nullptr && state->partial_tokens() > 0) impl_->publish_partial(*state);
  impl_->finish(std::move(state));
}

void KvCache::discard(BlockTable&& table) {
  if (table.is_open()) impl_->finish(std::move(table.state_));
}

// --- Forking ---

BlockTable KvCache::fork(BlockTable& source) {
  assert(source.is_open());
  BlockTable::State& from = *source.state_;
  impl_->take_room_back(from);
  if (from.tree != nullptr) impl_->index.join(*from.tree);
  BlockTable table = impl_->make_table(*this, from.tree);
  BlockTable::State& to = *table.state_;
  to.pages = from.pages;
  to.addresses = from.addresses;
  to.nodes = from.nodes;
  to.partial = from.partial;
  to.tokens = from.tokens;
  to.capacity = from.capacity;
  for (const PageId page : to.pages) impl_->retain(page);
  return table;
}

void KvCache::rewind(BlockTable& table, int tokens) {
  assert(table.is_open() && tokens >= 0 && tokens <= table.tokens());
  BlockTable::State& state = *table.state_;
  state.tokens = tokens;
  const std::size_t blocks = state.full_blocks();
  if (blocks < state.nodes.size()) {
    state.partial = state.nodes[blocks]->tokens;
    state.nodes.resize(blocks);
  }
  impl_->take_room_back(state);
}

// --- Looking ---

KvView KvCache::view(const BlockTable& table) const {
  assert(table.is_open());
  const BlockTable::State& state = *table.state_;
  return {&impl_->layout,
          {state.addresses[0].data(), state.addresses[1].data()},
          static_cast<int>(state.addresses[0].size())};
}

bool KvCache::could_fit(std::uint64_t pages) const {
  return impl_->pool->available() + impl_->index.evictable() >= pages;
}

void KvCache::clear() {
  impl_->index.forget_ghosts();
  for (;;) {
    const PageId page = impl_->index.evict(PrefixIndex::Remember::no);
    if (page == kNoPage) break;
    impl_->pool->release(page);
  }
  impl_->pool->give_back();
}

CacheStats KvCache::stats() const {
  return {.pages_used = impl_->pool->used(),
          .pages_evictable = impl_->index.evictable(),
          .pages_limit = impl_->pool->limit(),
          .evictions = impl_->evictions,
          .index_nodes = impl_->index.live() + impl_->index.ghosts(),
          .index_bytes = impl_->index.bytes()};
}

const KvLayout& KvCache::layout() const {
  return impl_->layout;
}

std::string KvCache::check_invariants() const {
  if (std::string violation = impl_->pool->check_invariants(); !violation.empty()) return violation;
  if (std::string violation = impl_->index.check_invariants(); !violation.empty()) return violation;
  for (const BlockTable::State* table : impl_->tables) {
    if (std::string violation = impl_->check_table(*table); !violation.empty()) return violation;
  }
  return impl_->check_references();
}

std::string KvCache::Impl::check_table(const BlockTable::State& table) const {
  if (table.pages.size() != blocks_for(table.capacity) || table.addresses[0].size() != table.pages.size()) {
    return "a table's pages differ from its capacity";
  }
  const bool writes = table.capacity > table.tokens;
  for (std::size_t block = 0; block < table.pages.size(); ++block) {
    const PageId page = table.pages[block];
    if (table.addresses[0][block] != pool->address(page)) return "a table has a page's address wrong";
    if (writes && block >= table.full_blocks() && pool->references(page) != 1) {
      return fmt::format("page {}, which is about to be written, is shared", static_cast<std::uint32_t>(page));
    }
  }
  if (table.tree == nullptr) return table.nodes.empty() ? "" : "a private table is in the index";
  if (table.nodes.size() != table.full_blocks()) return "a full block is not in the index";
  const IndexNode* parent = table.tree;
  for (std::size_t block = 0; block < table.nodes.size(); ++block) {
    const IndexNode* node = table.nodes[block];
    if (node->parent != parent || node->size != kBlockTokens) return "a table's blocks are no path of the index";
    if (node->page != table.pages[block]) return "a table holds another page than the index for the same block";
    parent = node;
  }
  return {};
}

std::string KvCache::Impl::check_references() const {
  std::vector<std::uint32_t> by_tables(pool->ids_end());
  for (const BlockTable::State* table : tables) {
    for (const PageId page : table->pages) ++by_tables[static_cast<std::size_t>(page)];
  }
  const auto shared = std::ranges::count_if(tables, [](const auto* table) { return table->tree != nullptr; });
  if (static_cast<std::uint64_t>(shared) != index.tables()) return "a namespace counts its tables wrong";
  for (std::uint32_t at = 0; at < pool->ids_end(); ++at) {
    const IndexNode* node = index.node_of(PageId{at});
    const std::uint32_t expected = by_tables[at] + (node == nullptr ? 0 : 1);
    if (pool->references(PageId{at}) != expected) {
      return fmt::format("page {} has {} references, but {} holders", at, pool->references(PageId{at}), expected);
    }
    if (node != nullptr && node->held != (by_tables[at] > 0)) return "the index is wrong about who holds a page";
  }
  return {};
}

}  // namespace dalsegno
