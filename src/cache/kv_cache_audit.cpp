#include <algorithm>

#include "cache/kv_cache_impl.hpp"

// What an audit of the cached bytes needs: a block to look at, and a way to stop all reuse of a namespace.
namespace dalsegno {

std::optional<KvCache::Sample> KvCache::sample(std::uint64_t random, int blocks) const {
  const Impl& self = *impl_;
  const auto needed =
      static_cast<std::uint64_t>(blocks) * static_cast<std::uint64_t>(self.layout.most_pages_in_block());
  if (self.pool->available() < needed) return std::nullopt;
  const std::uint64_t pages = self.index.pages_end();
  for (std::uint64_t i = 0; i < pages; ++i) {
    const IndexNode* node = self.index.node_of(PageId{static_cast<std::uint32_t>((random % pages + i) % pages)});
    if (node == nullptr || node->size != kBlockTokens) continue;
    if (node->window == kNoPage && self.layout.full_pages(node->depth - 1) == 0) continue;  // nothing of it is kept
    Sample sample;
    for (; node->parent != nullptr; node = node->parent) {
      sample.tokens.insert(sample.tokens.end(), node->tokens.rbegin(), node->tokens.rend());
    }
    const Namespace* name_space = static_cast<const PrefixTree*>(node)->name_space;
    if (name_space == nullptr || self.quarantined.contains(*name_space)) continue;
    std::ranges::reverse(sample.tokens);
    sample.name_space = *name_space;
    return sample;
  }
  return std::nullopt;
}

std::optional<KvCache::BlockPages> KvCache::pages_of(const Namespace& name_space,
                                                     std::span<const TokenId> tokens) const {
  const Impl& self = *impl_;
  const PrefixTree* tree = self.index.find(name_space);
  if (tree == nullptr) return std::nullopt;
  const PrefixIndex::Match match = self.index.match(*tree, tokens);
  if (match.blocks.empty() || match.blocks.size() * kBlockTokens != tokens.size()) return std::nullopt;
  BlockPages pages{};
  const IndexNode& node = *match.blocks.back();
  const int block = node.depth - 1;
  auto slice = static_cast<std::size_t>(self.layout.first_slice(block));
  const auto list = [&](PageId chain, int count) {
    for (; count > 0 && chain != kNoPage; --count, chain = self.pool->next(chain)) {
      pages[slice++] = self.pool->address(chain);
    }
  };
  list(node.page, self.layout.full_pages(block));
  list(node.window, self.layout.window_pages(block));
  return pages;
}

bool KvCache::is_trusted(const BlockTable& table) const {
  const Namespace* name_space = table.state_->tree->name_space;
  return name_space == nullptr || !impl_->quarantined.contains(*name_space);
}

void KvCache::quarantine(const Namespace& name_space) {
  impl_->quarantined.insert(name_space);
}

}  // namespace dalsegno
