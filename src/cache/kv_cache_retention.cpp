#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "cache/kv_cache_impl.hpp"

// What requests and tenants may ask of the cache: that blocks stay, or stay longer than others, or expire.

namespace dalsegno {
namespace {

// Of all pages; the rest is for what runs.
constexpr std::uint64_t kPinnedShare = 2;

std::uint64_t now(const MonotonicClock& clock) {
  return static_cast<std::uint64_t>(clock.now().count());
}

}  // namespace

// Children expire no later than their parents, so all that have expired are leaves in turn, but for what tables hold.
void KvCache::Impl::expire() {
  const std::uint64_t time = now(*options.clock);
  while (IndexNode* leaf = index.order().expired(time)) {
    remove_leaf(*leaf, PrefixIndex::Remember::yes);
    ++evicted.expired;
  }
}

void KvCache::Impl::claim(IndexNode& node, const Retention& retention) {
  std::uint64_t expires = kNeverExpires;
  if (retention.ttl_seconds > 0) {
    const double most = 1e15;  // milliseconds: 30,000 years
    const double ttl = std::ceil(std::min(1e3 * retention.ttl_seconds, most));
    expires = now(*options.clock) + static_cast<std::uint64_t>(ttl);
  }
  const int priority = std::clamp(retention.priority, -kMostPriority, kMostPriority);
  index.claim(node, static_cast<std::int8_t>(priority), expires);
}

std::uint64_t KvCache::Impl::quota_of(const Namespace& name_space) const {
  const auto own = options.quotas.find(name_space.salt);
  const std::uint64_t bytes = own == options.quotas.end() ? options.quota_bytes : own->second;
  if (bytes == 0) return 0;
  return std::max<std::uint64_t>(1, bytes / BlockPool::stride_of(layout.page_bytes()));
}

void KvCache::Impl::trim(PrefixTree& tree, std::uint64_t pages) {
  if (tree.share == nullptr) return;
  while (tree.share->pages + pages > tree.share->quota) {
    IndexNode* leaf = index.order().least(*tree.share);
    if (leaf == nullptr) return;
    unused_for.add(index.order().unused_for(*leaf));
    remove_leaf(*leaf, PrefixIndex::Remember::yes);
    ++evicted.quota;
  }
}

Result<void> KvCache::Impl::check_pin(const PrefixTree* tree, std::uint64_t quota, std::uint64_t pages) const {
  const auto bytes = [this](std::uint64_t count) {
    return human_bytes(count * BlockPool::stride_of(layout.page_bytes()));
  };
  const std::uint64_t own = tree == nullptr ? 0 : tree->pinned_pages;
  if (quota > 0 && own + pages > quota) {
    return Error{
        ErrorCode::exhausted,
        fmt::format("a pin that takes {} more does not fit: {} are pinned of this tenant's quota of {}; release "
                    "another one or raise the quota",
                    bytes(pages), bytes(own), bytes(quota))};
  }
  const std::uint64_t most = pool->limit() / kPinnedShare;
  if (pinned_pages + pages > most) {
    return Error{
        ErrorCode::exhausted,
        fmt::format("a pin that takes {} more does not fit: {} are pinned, and pins may take half of the {} that "
                    "there are for K/V; release another one or raise --memory",
                    bytes(pages), bytes(pinned_pages), bytes(pool->limit()))};
  }
  return {};
}

Result<void> KvCache::may_pin(const Namespace& name_space, std::span<const TokenId> tokens) const {
  const Impl& self = *impl_;
  const PrefixTree* tree = self.index.find(name_space);
  const std::size_t blocks = tokens.size() / kBlockTokens;
  const auto sees = static_cast<std::size_t>(self.checkpoints.first_block(static_cast<int>(blocks) * kBlockTokens));
  std::size_t pinned = 0;
  if (tree != nullptr) {
    const auto match = self.index.match(*tree, tokens.first(blocks * kBlockTokens));
    pinned = static_cast<std::size_t>(
        std::ranges::count_if(match.blocks, [](const IndexNode* node) { return node->pins > 0; }));
  }
  const std::size_t window_begin = self.checkpoints.needed() ? sees : blocks;
  return self.check_pin(tree, self.quota_of(name_space), self.pages_in({pinned, blocks}, {window_begin, blocks}));
}

Result<void> KvCache::pin(BlockTable& table) {
  assert(table.is_open());
  Impl& self = *impl_;
  BlockTable::State& state = *table.state_;
  if (state.is_private()) {
    return Error{ErrorCode::exhausted,
                 "nothing of this namespace is kept, so it cannot be pinned: it is in quarantine, or "
                 "there is no room for another namespace"};
  }
  self.unpin(state);
  if (state.at == state.tree) return {};
  const IndexNode* above = state.at;  // the last block that is pinned already
  while (above->parent != nullptr && above->pins == 0) above = above->parent;
  const auto first_window = static_cast<std::size_t>(state.first_window);
  const std::uint64_t full = self.pages_in({static_cast<std::size_t>(above->depth), state.full_blocks()}, {});
  const std::uint64_t windows = self.pages_in({}, {first_window, first_window + state.window.size()});
  DALSEGNO_TRY(self.check_pin(state.tree, state.tree->own.quota, full + windows));
  self.index.pin(*state.at);
  state.pinned = state.at;
  state.pinned_windows = windows;
  state.tree->pinned_pages += full + windows;
  self.pinned_pages += full + windows;
  return {};
}

void KvCache::Impl::unpin(BlockTable::State& table) {
  if (table.pinned == nullptr) return;
  const std::uint64_t pages = index.unpin(*table.pinned) + table.pinned_windows;
  table.tree->pinned_pages -= pages;
  pinned_pages -= pages;
  table.pinned = nullptr;
  table.pinned_windows = 0;
}

}  // namespace dalsegno
