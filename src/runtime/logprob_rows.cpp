#include "runtime/logprob_rows.hpp"

#include <algorithm>

namespace dalsegno {

std::size_t LogprobRows::Hash::operator()(std::span<const TokenId> tokens) const {
  std::uint64_t hash = 0x9e3779b97f4a7c15ULL;  // any odd number with bits everywhere: it is equality that decides
  for (const TokenId token : tokens) {
    hash = (hash ^ static_cast<std::uint32_t>(token)) * 0xff51afd7ed558ccdULL;
    hash ^= hash >> 32;
  }
  return hash;
}

bool LogprobRows::Equal::operator()(std::span<const TokenId> a, std::span<const TokenId> b) const {
  return std::ranges::equal(a, b);
}

Result<std::shared_ptr<LogprobRows>> LogprobRows::create(std::shared_ptr<ProcessMemory> memory,
                                                         std::uint64_t max_bytes) {
  MemoryBudget& budget = memory->budget();
  if (max_bytes < budget.limit())
    memory->ask_and_wait({.target = std::max<std::uint64_t>(1, budget.limit() - max_bytes)});
  DALSEGNO_ASSIGN(room, budget.reserve(MemoryKind::log_probs, max_bytes, "log-probabilities"));
  std::shared_ptr<LogprobRows> rows(new LogprobRows(std::move(memory), max_bytes));
  rows->room_ = std::move(room);
  return rows;
}

// Twice the tokens, which are the key as well, and what lists and tables take for an entry.
std::uint64_t LogprobRows::bytes(const Row& row) {
  constexpr std::uint64_t kEntry = sizeof(Row) + 160;
  return row.values.size() * sizeof(float) + 2 * row.tokens.size() * sizeof(TokenId) + kEntry;
}

std::shared_ptr<LogprobRows::Row> LogprobRows::find(std::span<const TokenId> tokens, bool& is_new) {
  const std::lock_guard lock(mutex_);
  ++stats_.queries;
  is_new = false;
  if (const auto found = rows_.find(tokens); found != rows_.end()) {
    Row& row = *found->second;
    ++(row.kept ? stats_.hits : stats_.joined);
    if (row.kept) recent_.splice(recent_.begin(), recent_, row.place);
    return found->second;
  }
  is_new = true;
  auto row = std::make_shared<Row>(std::vector<TokenId>(tokens.begin(), tokens.end()));
  rows_.emplace(row->tokens, row);
  return row;
}

// What others cache makes way before the next row, if the room had been given back and is not there now.
bool LogprobRows::reserve() {
  if (room_.bytes() > 0) return true;
  auto room = memory_->budget().reserve(MemoryKind::log_probs, max_bytes_, "log-probabilities");
  if (room.ok()) {
    room_ = std::move(room).value();
    return true;
  }
  memory_->ask({.target = std::max<std::uint64_t>(1, memory_->budget().limit() - max_bytes_)}, this);
  return false;
}

void LogprobRows::end(const std::shared_ptr<Row>& row, Result<FinishReason> outcome) {
  const bool computed = outcome.ok() && !row->values.empty();
  {
    const std::lock_guard lock(mutex_);
    stats_.computed += computed ? 1 : 0;
    const std::uint64_t size = bytes(*row);
    if (closed_ || !computed || size > max_bytes_ || !reserve()) {
      rows_.erase(row->tokens);
    } else {
      while (stats_.bytes + size > max_bytes_) {
        ++stats_.evicted;
        forget(*recent_.back());
      }
      recent_.push_front(row.get());
      row->place = recent_.begin();
      row->kept = true;
      stats_.bytes += size;
      ++stats_.rows;
    }
  }
  row->end.set_value(std::move(outcome));
}

void LogprobRows::forget(Row& row) {
  stats_.bytes -= bytes(row);
  --stats_.rows;
  recent_.erase(row.place);
  rows_.erase(rows_.find(row.tokens));
}

void LogprobRows::clear() {
  const std::lock_guard lock(mutex_);
  while (!recent_.empty()) forget(*recent_.back());
}

void LogprobRows::give_back() {
  clear();
  const std::lock_guard lock(mutex_);
  room_.release();
}

void LogprobRows::close() {
  give_back();
  const std::lock_guard lock(mutex_);
  closed_ = true;
  memory_.reset();
}

LogprobStats LogprobRows::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace dalsegno
