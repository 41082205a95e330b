#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "cache/block_table.hpp"
#include "cache/prefix_index.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

// What a BlockTable holds. Each entry of `pages` is one reference.
// Invariant: capacity is tokens or 16 for each page. In the second case the pages from block
// tokens/16 on, which are the ones to be written, are this table's alone.
struct BlockTable::State {
  KvCache* cache = nullptr;    // nullptr once the cache is gone
  std::size_t slot = 0;        // in the cache's list of open tables
  PrefixTree* tree = nullptr;  // nullptr: private
  std::vector<PageId> pages;
  std::array<std::vector<std::byte*>, kMostGroups> addresses;  // of each group in the pages
  std::vector<IndexNode*> nodes;                               // of the first tokens/16 blocks; empty if private
  std::array<TokenId, kBlockTokens> partial{};                 // the first tokens%16 of these: the block being filled
  int tokens = 0;
  int capacity = 0;

  [[nodiscard]] std::size_t full_blocks() const { return static_cast<std::size_t>(tokens / kBlockTokens); }
  [[nodiscard]] std::size_t partial_tokens() const { return static_cast<std::size_t>(tokens % kBlockTokens); }
  // The node that the next block follows. Requires: not private.
  [[nodiscard]] IndexNode& parent() const { return nodes.empty() ? *tree : *nodes.back(); }
};

}  // namespace dalsegno
