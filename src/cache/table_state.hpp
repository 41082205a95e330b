#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <vector>

#include "cache/block_table.hpp"
#include "cache/prefix_index.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

// What a BlockTable holds. Its full blocks are those of the index that lead to `at`, whose page has one reference of
// the table's: what stands above a held block stays, so that a fork costs the same however long the sequence is.
// Each entry of `full` and `window` is one reference.
// Invariant: capacity is tokens, or the blocks of `full` that are to be written are this table's alone; the same for
// `window`.
struct BlockTable::State {
  KvCache* cache = nullptr;                     // nullptr once the cache is gone
  std::size_t slot = 0;                         // in the cache's list of open tables
  PrefixTree* tree = nullptr;                   // private ones have a tree of their own
  IndexNode* at = nullptr;                      // the last full block, or the tree
  std::array<TokenId, kBlockTokens> partial{};  // the first tokens%16 of these: the block being filled
  int tokens = 0;
  int capacity = 0;           // of `full`
  int window_capacity = 0;    // of `window`, if the model has sliding layers
  std::deque<PageId> full;    // of the blocks from tokens/16 on: first pages of their chains
  std::deque<PageId> window;  // kNoPage for a block of the sink, which has none
  int first_window = 0;       // block of the first of `window`; those before are out of sight
  int arriving = 0;           // tokens that skip_to() announced and that are not committed yet
  Retention retention{};
  IndexNode* pinned = nullptr;       // a pin of this table's ends here
  std::uint64_t pinned_windows = 0;  // and counts so many pages of sliding layers
  std::vector<int> ends;             // a checkpoint is wanted when one of these blocks is full

  // What view() gave last, as far as it is still true: of blocks [0, listed) and of window pages up to
  // [listed_window). Window pages that the table does not hold are nullptr.
  std::vector<std::vector<std::byte*>> addresses;  // [slice], as many as the layout has
  std::size_t listed = 0;
  std::size_t listed_window = 0;

  [[nodiscard]] std::size_t full_blocks() const { return static_cast<std::size_t>(tokens / kBlockTokens); }
  [[nodiscard]] std::size_t partial_tokens() const { return static_cast<std::size_t>(tokens % kBlockTokens); }
  [[nodiscard]] std::size_t blocks() const { return full_blocks() + full.size(); }
  [[nodiscard]] std::size_t window_end() const { return static_cast<std::size_t>(first_window) + window.size(); }
  // Of the block being filled, in `window`.
  [[nodiscard]] std::size_t last_window() const { return full_blocks() - static_cast<std::size_t>(first_window); }
  [[nodiscard]] bool is_private() const { return tree->name_space == nullptr; }
};

}  // namespace dalsegno
