#include "runtime/held_tables.hpp"

#include <cassert>
#include <utility>

namespace dalsegno {

Result<void> HeldTables::hold(std::uint64_t id, BlockTable&& table, Keep keep) {
  assert(!held_.contains(id));
  cache_.publish(table);
  Result<void> pinned = keep == Keep::pinned ? cache_.pin(table) : Result<void>();
  if (!pinned.ok()) {
    cache_.close(std::move(table));
    return pinned;
  }
  held_.emplace(id, std::move(table));
  return {};
}

Result<bool> HeldTables::hold_cached(std::uint64_t id, const Namespace& name_space, std::span<const TokenId> tokens,
                                     Keep keep) {
  const int size = static_cast<int>(tokens.size());
  if (keep == Keep::pinned) DALSEGNO_TRY(cache_.may_pin(name_space, tokens));
  if (cache_.preview(name_space, tokens, size).reused < size) return false;
  KvCache::Opened opened = cache_.open(name_space, tokens, size);
  if (opened.reused < size) {  // no room for a copy of the last, partial block
    cache_.close(std::move(opened.table));
    return false;
  }
  DALSEGNO_TRY(hold(id, std::move(opened.table), keep));
  return true;
}

Result<int> HeldTables::hold_fork(std::uint64_t id, BlockTable& source, int tokens) {
  BlockTable table = cache_.fork(source);
  const int kept = tokens < table.tokens() ? cache_.rewind(table, tokens) : table.tokens();
  DALSEGNO_TRY(hold(id, std::move(table)));
  return kept;
}

BlockTable* HeldTables::find(std::uint64_t id) {
  const auto at = held_.find(id);
  return at == held_.end() ? nullptr : &at->second;
}

void HeldTables::release(std::uint64_t id) {
  const auto at = held_.find(id);
  if (at == held_.end()) return;
  cache_.close(std::move(at->second));
  held_.erase(at);
}

HeldTables::Pages HeldTables::pages_of(const BlockTable& table) const {
  const KvView view = cache_.view(table);
  Pages pages;
  for (std::byte* const* slice : view.pages) {
    pages.slices.emplace_back();
    if (slice != nullptr) pages.slices.back().assign(slice, slice + view.page_count);
  }
  return pages;
}

Result<HeldTables::Pages> HeldTables::pages(std::uint64_t id) {
  const BlockTable* table = find(id);
  assert(table != nullptr);
  if (!cache_.is_trusted(*table)) {
    return Error{ErrorCode::corrupt,
                 "an audit has found that the cache this comes from is damaged; make it again from its tokens"};
  }
  return pages_of(*table);
}

Result<HeldTables::Arrival> HeldTables::begin(std::uint64_t id, const Namespace& name_space,
                                              std::span<const TokenId> tokens, int window_block, Keep keep) {
  assert(!held_.contains(id) && !arriving_.contains(id));
  const int size = static_cast<int>(tokens.size());
  if (keep == Keep::pinned) DALSEGNO_TRY(cache_.may_pin(name_space, tokens));
  KvCache::Opened opened = cache_.open(name_space, tokens, size);
  cache_.skip_to(opened.table, size, window_block);
  if (Result<void> room = cache_.extend(opened.table, size - opened.reused); !room.ok()) {
    cache_.discard(std::move(opened.table));
    return std::move(room).error();
  }
  Arrival arrival{opened.reused, pages_of(opened.table)};
  arriving_.emplace(id, std::move(opened.table));
  return arrival;
}

Result<void> HeldTables::end(std::uint64_t id, std::span<const TokenId> tokens, Keep keep) {
  const auto at = arriving_.find(id);
  assert(at != arriving_.end());
  BlockTable table = std::move(at->second);
  arriving_.erase(at);
  cache_.commit(table, tokens.subspan(static_cast<std::size_t>(table.tokens())));
  return hold(id, std::move(table), keep);
}

void HeldTables::abandon(std::uint64_t id) {
  const auto at = arriving_.find(id);
  assert(at != arriving_.end());
  cache_.discard(std::move(at->second));
  arriving_.erase(at);
}

}  // namespace dalsegno
