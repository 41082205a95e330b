#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

#include "cache/kv_cache_impl.hpp"

// How open tables grow, share and shrink.

namespace dalsegno {
namespace {

// Blocks between checkpoints of a sequence that goes on and on; Checkpoints::thin() leaves fewer.
constexpr int kMarkBlocks = 64;

bool is_beyond_count(int tokens, int more) {
  return more > std::numeric_limits<int>::max() - kBlockTokens - tokens;
}

}  // namespace

// --- Filling ---

// Who shares the last block has no room beyond it, so that what is copied and what is new are one range.
std::optional<KvCache::Impl::Wanted> KvCache::Impl::wanted(const BlockTable::State& state, int more, int rows) const {
  const bool windows = checkpoints.needed();
  if (state.tokens + more <= state.capacity && (!windows || state.tokens + rows <= state.window_capacity)) {
    return std::nullopt;
  }
  const auto missing = [](int tokens, std::size_t present) {
    return Range{present, std::max(blocks_for(tokens), present)};
  };
  Wanted wanted{.full = missing(state.tokens + more, state.blocks())};
  if (windows) wanted.window = missing(state.tokens + rows, state.window_end());
  if (state.partial_tokens() == 0) return wanted;
  const std::size_t last = state.last_window();
  wanted.copies_full = pool->references(state.full.front()) > 1;
  wanted.copies_window =
      last < state.window.size() && state.window[last] != kNoPage && pool->references(state.window[last]) > 1;
  if (wanted.copies_full) --wanted.full.begin;
  if (wanted.copies_window) --wanted.window.begin;
  return wanted;
}

std::optional<std::uint64_t> KvCache::lacks(const BlockTable& table, int more, int rows) const {
  assert(table.is_open() && rows >= 0 && more >= rows);
  const Impl& self = *impl_;
  if (is_beyond_count(table.tokens(), more)) return std::nullopt;
  const std::optional<Impl::Wanted> wanted = self.wanted(*table.state_, more, rows);
  if (!wanted) return 0;
  const std::uint64_t pages = self.pages_in(wanted->full, wanted->window);
  const std::uint64_t held = self.pool->used() - self.evictable();
  if (held + pages > self.pool->limit() || !self.could_fit_empty(wanted->full)) return std::nullopt;
  const std::uint64_t needed = (held + pages) * page_stride();
  const std::uint64_t could_have = self.pool->committed_bytes() + self.memory.free_bytes();
  return needed - std::min(needed, could_have);
}

Result<void> KvCache::extend(BlockTable& table, int more, int rows) {
  assert(table.is_open() && rows >= 0 && more >= rows);
  BlockTable::State& state = *table.state_;
  Impl& self = *impl_;
  if (is_beyond_count(state.tokens, more)) {
    return Error{ErrorCode::exhausted, "a sequence cannot hold that many tokens; shorten the prompt or --max-tokens"};
  }
  const std::optional<Impl::Wanted> wanted = self.wanted(state, more, rows);
  if (!wanted) return {};
  auto pages = self.allocate(*state.tree, wanted->full, wanted->window);
  if (!pages) {
    return Error{
        ErrorCode::exhausted,
        fmt::format("no room for the K/V of {} more tokens: running requests and pins hold {} of {} pages of {}; "
                    "raise --memory or shorten the prompt",
                    more, self.pool->used() - self.evictable(), self.pool->used() + self.pool->available(),
                    human_bytes(self.layout.page_bytes()))};
  }
  if (wanted->copies_full) {
    const PageId shared = std::exchange(state.full.front(), pages->full.front());
    pages->full.erase(pages->full.begin());
    self.copy(shared, state.full.front());
    self.release(shared);
  }
  if (wanted->copies_window) {
    const std::size_t last = state.last_window();
    const PageId shared = std::exchange(state.window[last], pages->window.front());
    pages->window.erase(pages->window.begin());
    self.copy(shared, state.window[last]);
    self.checkpoints.release(shared);
  }
  if (wanted->copies_full || wanted->copies_window) self.trim(*state.tree);
  if (state.partial_tokens() > 0) {
    state.listed = std::min(state.listed, state.full_blocks());
    state.listed_window = std::min(state.listed_window, state.full_blocks());
  }
  state.full.insert(state.full.end(), pages->full.begin(), pages->full.end());
  state.window.insert(state.window.end(), pages->window.begin(), pages->window.end());
  state.capacity = static_cast<int>(state.blocks()) * kBlockTokens;
  state.window_capacity =
      self.checkpoints.needed() ? static_cast<int>(state.window_end()) * kBlockTokens : state.capacity;
  return {};
}

int KvCache::extend_into_free(BlockTable& table, int more) {
  assert(table.is_open());
  BlockTable::State& state = *table.state_;
  Impl& self = *impl_;
  const bool windows = self.checkpoints.needed();
  const std::size_t begin = state.blocks();
  assert(state.capacity > state.tokens && (!windows || state.window_end() == begin));
  std::size_t end = begin;
  for (; end < blocks_for(state.tokens + more); ++end) {
    const Impl::Range added{begin, end + 1};
    if (!self.lie_free(*state.tree, added, windows ? added : Impl::Range{})) break;
  }
  const int room = std::min(more, static_cast<int>(end) * kBlockTokens - state.tokens);
  const Result<void> made = extend(table, room);
  assert(made.ok());
  return made.ok() ? room : 0;
}

void KvCache::give_back_room(BlockTable& table) {
  assert(table.is_open());
  BlockTable::State& state = *table.state_;
  if (state.blocks() > blocks_for(state.tokens)) impl_->take_room_back(state);
}

std::vector<TokenId> KvCache::continuation(const BlockTable& table, std::span<const TokenId> next, int most) const {
  assert(table.is_open());
  const BlockTable::State& state = *table.state_;
  std::vector<TokenId> beginning(state.partial.begin(),
                                 state.partial.begin() + static_cast<std::ptrdiff_t>(state.partial_tokens()));
  beginning.insert(beginning.end(), next.begin(), next.end());
  return impl_->index.continuation(*state.at, beginning, most);
}

void KvCache::commit(BlockTable& table, std::span<const TokenId> tokens) {
  assert(table.is_open());
  BlockTable::State& state = *table.state_;
  assert(tokens.size() <= static_cast<std::size_t>(table.capacity() - state.tokens) && "extend() before commit()");
  for (const TokenId token : tokens) {
    state.partial[state.partial_tokens()] = token;
    ++state.tokens;
    if (state.partial_tokens() == 0) impl_->publish(state);
  }
  state.arriving = 0;
  impl_->slide(state);
  impl_->trim(*state.tree);
}

void KvCache::skip_to(BlockTable& table, int tokens, int window_block) {
  assert(table.is_open() && tokens >= table.tokens());
  BlockTable::State& state = *table.state_;
  Checkpoints& checkpoints = impl_->checkpoints;
  if (!checkpoints.needed()) return;
  state.arriving = tokens;
  assert(window_block <= checkpoints.first_block(tokens));
  if (window_block < static_cast<int>(state.window_end())) return;  // what it has and what comes are one range
  for (const PageId page : state.window) checkpoints.release(page);
  state.window.clear();
  state.first_window = window_block;
  state.window_capacity = state.tokens;
  for (auto& addresses : state.addresses) addresses.clear();
  state.listed = state.listed_window = 0;
}

void KvCache::expect_end(BlockTable& table, int tokens) {
  assert(table.is_open() && tokens > 0);
  if (!impl_->checkpoints.needed()) return;
  std::vector<int>& ends = table.state_->ends;
  const int block = (tokens - 1) / kBlockTokens;
  if (std::ranges::find(ends, block) == ends.end()) ends.push_back(block);
}

// Puts the block after `at` into the index, with its window page. The table keeps its references.
IndexNode& KvCache::Impl::put(BlockTable::State& table, std::span<const TokenId> tokens) {
  const PageId own = table.full.front();
  bool was_checkpoint = false;
  const bool with_window = checkpoints.needed() && table.at->depth >= table.first_window;  // false: skipped
  if (IndexNode* beginning = index.continued_by(*table.at, tokens)) {
    if (!with_window && checkpoints.needed()) checkpoints.unmark(*beginning);
    was_checkpoint = checkpoints.hand_over(*beginning);
  }
  const PrefixIndex::Inserted inserted = index.insert(*table.at, tokens, own);
  IndexNode& node = *inserted.node;
  if (inserted.added) pool->retain(own);
  if (inserted.dropped != kNoPage) pool->release(inserted.dropped);
  // A block that holds more tokens than were computed here needs more of a window page as well.
  if (with_window && node.window == kNoPage && node.size == static_cast<int>(tokens.size())) {
    checkpoints.give(node, table.window[static_cast<std::size_t>(node.depth - 1 - table.first_window)]);
  }
  if (was_checkpoint) checkpoints.take_over(node);
  claim(node, table.retention);
  return node;
}

// The place where tokens become reusable: the block just filled joins the index, or makes way for
// the same block of another sequence.
void KvCache::Impl::publish(BlockTable::State& table) {
  IndexNode& node = put(table, table.partial);
  const PageId own = table.full.front();
  table.full.pop_front();
  if (node.page != own) {
    retain(node.page);
    release(own);
    table.listed = std::min(table.listed, static_cast<std::size_t>(node.depth - 1));
  }
  if (checkpoints.needed() && node.depth > table.first_window) {
    PageId& window = table.window[static_cast<std::size_t>(node.depth - 1 - table.first_window)];
    if (node.window != window) {
      checkpoints.retain(node.window);
      checkpoints.release(std::exchange(window, node.window));
      table.listed_window = std::min(table.listed_window, static_cast<std::size_t>(node.depth - 1));
    }
  }
  // The page of the block, so far the table's as one to be written, is now held as that of its last block.
  if (table.at != table.tree) release(table.at->page, true);
  table.at = &node;
  const bool is_end = std::erase(table.ends, node.depth - 1) > 0;
  if (is_end || node.depth % kMarkBlocks == 0) {
    checkpoints.mark(node, is_end);
    checkpoints.thin(node);
  }
}

// The end of a sequence: the block that is not full yet, and a checkpoint.
void KvCache::Impl::publish_partial(BlockTable::State& table) {
  IndexNode* last = table.at;
  if (table.partial_tokens() > 0) {
    last = &put(table, std::span<const TokenId>(table.partial).first(table.partial_tokens()));
    if (checkpoints.needed() && checkpoints.lacks(*last)) last = table.at;
  }
  if (last == table.tree) return;
  checkpoints.mark(*last, true);
  checkpoints.thin(*last);
}

// Lets go of window blocks that no checkpoint of the last full block, should it become one, covers.
void KvCache::Impl::slide(BlockTable::State& table) {
  const int first =
      checkpoints.needed() ? checkpoints.first_block((table.tokens / kBlockTokens - 1) * kBlockTokens + 1) : 0;
  for (; table.first_window < first && !table.window.empty(); ++table.first_window) {
    checkpoints.release(table.window.front());
    table.window.pop_front();
    const int block = table.first_window;
    const int slice = layout.first_slice(block) + layout.full_pages(block);
    for (int i = slice; i < slice + layout.window_pages(block); ++i) {
      auto& addresses = table.addresses[static_cast<std::size_t>(i)];
      if (static_cast<std::size_t>(block) < addresses.size()) addresses[static_cast<std::size_t>(block)] = nullptr;
    }
  }
}

void KvCache::publish(BlockTable& table) {
  assert(table.is_open());
  impl_->take_room_back(*table.state_);
  if (!table.state_->is_private()) impl_->publish_partial(*table.state_);
}

// --- Forking ---

// Room that fork() or rewind() takes back must be made again, since the last page may be shared by then.
void KvCache::Impl::take_room_back(BlockTable::State& table) {
  const std::size_t keep = blocks_for(table.tokens);
  for (; table.blocks() > keep; table.full.pop_back()) release(table.full.back());
  for (; table.window_end() > keep && !table.window.empty(); table.window.pop_back()) {
    checkpoints.release(table.window.back());
  }
  for (auto& addresses : table.addresses) addresses.resize(std::min(addresses.size(), keep));
  table.listed = std::min(table.listed, keep);
  table.listed_window = std::min(table.listed_window, keep);
  table.capacity = table.window_capacity = table.tokens;
}

BlockTable KvCache::fork(BlockTable& source) {
  assert(source.is_open());
  BlockTable::State& from = *source.state_;
  impl_->take_room_back(from);
  impl_->index.join(*from.tree);
  BlockTable table = impl_->make_table(*this, *from.tree);
  BlockTable::State& to = *table.state_;
  to.retention = from.retention;
  to.at = from.at;
  to.partial = from.partial;
  to.tokens = from.tokens;
  to.capacity = to.window_capacity = from.tokens;
  to.full = from.full;
  to.window = from.window;
  to.first_window = from.first_window;
  if (to.at != to.tree) impl_->retain(to.at->page);
  for (const PageId page : to.full) impl_->retain(page);
  for (const PageId page : to.window) impl_->checkpoints.retain(page);
  if (to.at != to.tree) impl_->checkpoints.mark_fork(*to.at);
  if (to.partial_tokens() > 0) {
    expect_end(source, to.tokens);
    expect_end(table, to.tokens);
  }
  return table;
}

int KvCache::rewind(BlockTable& table, int tokens) {
  assert(table.is_open() && tokens >= 0 && tokens <= table.tokens());
  BlockTable::State& state = *table.state_;
  Checkpoints& checkpoints = impl_->checkpoints;
  int kept = tokens;
  if (tokens <= static_cast<int>(state.full_blocks()) * kBlockTokens) {
    kept = checkpoints.resumable(PrefixIndex::ancestor(*state.at, static_cast<int>(blocks_for(tokens))), tokens);
  } else if (checkpoints.needed()) {
    const int first = checkpoints.first_block(tokens);
    for (const IndexNode* at = state.at; at->depth > first; at = at->parent) {
      if (!checkpoints.lacks(*at)) continue;
      kept = checkpoints.resumable(*at->parent, (at->depth - 1) * kBlockTokens);
      break;
    }
  }
  impl_->go_back(state, kept);
  impl_->take_room_back(state);
  impl_->trim(*state.tree);
  return kept;
}

// What is held changes to what a sequence of `tokens` tokens needs, shared with the index. Takes first, then lets go.
void KvCache::Impl::go_back(BlockTable::State& table, int tokens) {
  const int blocks = tokens / kBlockTokens;
  const bool within_last = blocks == static_cast<int>(table.full_blocks());
  IndexNode& at = PrefixIndex::ancestor(*table.at, blocks);
  const bool shares = !within_last && tokens % kBlockTokens > 0;
  IndexNode* source = shares ? &PrefixIndex::ancestor(*table.at, blocks + 1) : nullptr;
  std::deque<PageId> full = within_last ? table.full : std::deque<PageId>{};
  std::deque<PageId> window;
  const int first = checkpoints.needed() ? checkpoints.first_block(tokens) : 0;
  if (checkpoints.needed()) {
    for (IndexNode* node = source != nullptr ? source : &at; node->depth > first; node = node->parent) {
      window.push_front(node->window);
    }
    if (within_last) {
      const auto tail = table.window.begin() + (blocks - table.first_window);
      window.insert(window.end(), tail, table.window.end());
    }
  }
  unpin(table);
  if (table.at != table.tree) claim(*table.at, table.retention);
  if (source != nullptr) full.push_back(source->page);
  for (const PageId page : window) checkpoints.retain(page);
  for (const PageId page : full) retain(page);
  if (&at != table.tree) retain(at.page);
  for (const PageId page : table.window) checkpoints.release(page);
  for (const PageId page : table.full) release(page);
  if (table.at != table.tree) release(table.at->page);
  if (source != nullptr) table.partial = source->tokens;
  table.full = std::move(full);
  table.window = std::move(window);
  table.first_window = first;
  table.at = &at;
  table.tokens = tokens;
  if (!checkpoints.needed()) {
    table.listed = std::min(table.listed, static_cast<std::size_t>(blocks));
    return;
  }
  table.listed = table.listed_window = 0;
  for (auto& addresses : table.addresses) addresses.clear();
}

// --- Looking ---

void KvCache::Impl::list(BlockTable::State& table, std::size_t block, PageId chain, int slice) {
  if (chain == kNoPage || pool->is_empty(chain)) return;
  for (; chain != kNoPage; chain = pool->next(chain), ++slice) {
    table.addresses[static_cast<std::size_t>(slice)][block] = pool->address(chain);
  }
}

// After an ordinary step only the blocks that it added are listed; after a fork, all.
KvView KvCache::view(const BlockTable& table) const {
  assert(table.is_open());
  BlockTable::State& state = *table.state_;
  const KvLayout& layout = impl_->layout;
  const std::size_t blocks = state.blocks();
  KvView view{&layout, {}, static_cast<int>(blocks)};
  const auto give = [&](int slice) {
    auto& addresses = state.addresses[static_cast<std::size_t>(slice)];
    addresses.resize(blocks, nullptr);
    view.pages[static_cast<std::size_t>(slice)] = addresses.data();
  };
  for (int slice = 0; slice < layout.division.slices; ++slice) give(slice);
  for (int slice = 0; slice < layout.early.slices && layout.start > 0; ++slice) give(kMostSlices + slice);
  const auto first_of = [&](std::size_t block) { return layout.first_slice(static_cast<int>(block)); };
  std::size_t next = state.full_blocks();
  for (const IndexNode* at = state.at; static_cast<std::size_t>(at->depth) > state.listed; at = at->parent) {
    const auto block = static_cast<std::size_t>(at->depth - 1);
    impl_->list(state, block, at->page, first_of(block));
  }
  for (next = std::max(next, state.listed); next < blocks; ++next) {
    impl_->list(state, next, state.full[next - state.full_blocks()], first_of(next));
  }
  state.listed = blocks;
  const auto first = static_cast<std::size_t>(state.first_window);
  for (std::size_t block = std::max(first, state.listed_window); block < std::min(blocks, state.window_end());
       ++block) {
    impl_->list(state, block, state.window[block - first],
                first_of(block) + layout.full_pages(static_cast<int>(block)));
  }
  state.listed_window = std::min(blocks, state.window_end());
  return view;
}

}  // namespace dalsegno
