#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "cache/kv_cache_impl.hpp"

namespace dalsegno {

std::string KvCache::check_invariants() const {
  if (std::string violation = impl_->pool->check_invariants(); !violation.empty()) return violation;
  if (std::string violation = impl_->index.check_invariants(); !violation.empty()) return violation;
  if (std::string violation = impl_->checkpoints.check_invariants(); !violation.empty()) return violation;
  for (const BlockTable::State* table : impl_->tables) {
    if (std::string violation = impl_->check_table(*table); !violation.empty()) return violation;
  }
  return impl_->check_references();
}

std::string KvCache::Impl::check_table(const BlockTable::State& table) const {
  if (table.at->depth != static_cast<int>(table.full_blocks())) return "a table's blocks do not lead to its last";
  if (&PrefixIndex::ancestor(*table.at, 0) != table.tree) return "a table's blocks are another namespace's";
  if (table.blocks() != blocks_for(table.capacity)) return "a table's pages differ from its capacity";
  if (table.capacity > table.tokens) {
    for (const PageId page : table.full) {
      if (pool->references(page) != 1) {
        return fmt::format("page {}, which is about to be written, is shared", static_cast<std::uint32_t>(page));
      }
    }
  }
  if (!checkpoints.needed()) return table.window.empty() ? "" : "a table without sliding layers has window pages";
  if (table.window_end() != blocks_for(table.window_capacity) &&
      !(table.window.empty() && table.tokens % kBlockTokens == 0)) {
    return "a table's window pages differ from its capacity";
  }
  if (table.first_window > checkpoints.first_block(std::max(table.tokens, table.arriving)))
    return "a table let go of what its next token sees";
  for (const IndexNode* at = table.at; at->depth > table.first_window; at = at->parent) {
    if (at->window == kNoPage && checkpoints.lacks(*at)) return "a table holds a window page that the index lost";
    if (table.window[static_cast<std::size_t>(at->depth - 1 - table.first_window)] != at->window) {
      return "a table holds another window page than the index for the same block";
    }
  }
  for (std::size_t block = table.full_blocks(); table.window_capacity > table.tokens && block < table.window_end();
       ++block) {
    const PageId page = table.window[block - static_cast<std::size_t>(table.first_window)];
    if (page != kNoPage && pool->references(page) != 1) {
      return "a window page, which is about to be written, is shared";
    }
  }
  return {};
}

std::string KvCache::Impl::check_references() const {
  std::vector<std::uint32_t> by_tables(pool->ids_end());
  const auto count = [&](PageId page) {
    if (page != kNoPage) ++by_tables[static_cast<std::size_t>(page)];
  };
  for (const BlockTable::State* table : tables) {
    if (table->at != table->tree) count(table->at->page);
    std::ranges::for_each(table->full, count);
    std::ranges::for_each(table->window, count);
  }
  if (tables.size() != index.tables()) return "a namespace counts its tables wrong";
  for (std::uint32_t at = 0; at < pool->ids_end(); ++at) {
    if (!pool->was_lent(PageId{at})) continue;
    const IndexNode* node = index.node_of(PageId{at});
    const std::uint32_t expected = by_tables[at] + (node == nullptr ? 0 : 1);
    if (pool->references(PageId{at}) != expected) {
      return fmt::format("page {} has {} references, but {} holders", at, pool->references(PageId{at}), expected);
    }
    if (node != nullptr && node->page == PageId{at} && node->held != (by_tables[at] > 0)) {
      return "the index is wrong about who holds a page";
    }
  }
  return {};
}

}  // namespace dalsegno
