#include "runtime/logprob_rows.hpp"

#include <algorithm>
#include <utility>

namespace dalsegno {
namespace {

// Rows keep at least this part of the room (one in so many) when hidden states fill the rest: a row of SmolLM2-135M
// takes as much as 85 hidden states, and running its head a fifth of a token's time.
constexpr std::uint64_t kRowShare = 4;

}  // namespace

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

// With what its entry and its places in lists take.
std::uint64_t LogprobRows::bytes(const HiddenState& hidden) {
  return hidden->size() * sizeof(float) + sizeof(HiddenState::element_type) + sizeof(Entry) + 160;
}

std::uint64_t LogprobRows::bytes(const Row& row) {
  return row.values.size() * sizeof(float) + sizeof(Row) + 160;
}

LogprobRows::Found LogprobRows::find(std::span<const TokenId> tokens) {
  const std::lock_guard lock(mutex_);
  ++stats_.queries;
  Tree::Node& node = tree_.put(tokens);
  const bool is_new = node.value == nullptr;
  if (is_new) {
    node.value = std::make_unique<Entry>();
    node.value->node = &node;
    node.value->tokens = tokens.size();
  }
  Entry& entry = *node.value;
  if (entry.row != nullptr && entry.hidden == nullptr) {
    ++stats_.joined;
    return {entry.row, Needs::nothing};
  }
  if (entry.row != nullptr) {
    ++stats_.hits;
    recent_.splice(recent_.begin(), recent_, entry.place);
    recent_rows_.splice(recent_rows_.begin(), recent_rows_, entry.row_place);
    return {entry.row, Needs::nothing};
  }
  entry.row = std::make_shared<Row>();
  entry.row->node = &node;
  if (is_new) return {entry.row, Needs::model};
  // On its way it has no place: nothing drops it before it is there.
  entry.row->by_head = true;
  recent_.erase(entry.place);
  hidden_bytes_ -= bytes(entry.hidden);
  entry.row->hidden = std::exchange(entry.hidden, nullptr);
  need_head_.push_back(entry.row);
  return {entry.row, Needs::head};
}

std::vector<std::shared_ptr<LogprobRows::Row>> LogprobRows::take(std::size_t most) {
  const std::lock_guard lock(mutex_);
  const auto end = need_head_.begin() + static_cast<std::ptrdiff_t>(std::min(most, need_head_.size()));
  std::vector<std::shared_ptr<Row>> taken(need_head_.begin(), end);
  need_head_.erase(need_head_.begin(), end);
  return taken;
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
  {
    const std::lock_guard lock(mutex_);
    Tree::Node& node = *row->node;
    const bool computed = outcome.ok() && !row->values.empty();
    if (computed) ++(row->by_head ? stats_.from_hidden : stats_.computed);
    if (closed_ || !computed || !reserve() || !keep(*node.value)) tree_.erase(node);
  }
  row->end.set_value(std::move(outcome));
}

// False if it alone would be too much, so that nothing else has to go for it.
bool LogprobRows::keep(Entry& entry) {
  HiddenState hidden = std::move(entry.row->hidden);
  const std::uint64_t least = Tree::bytes_of_one(entry.tokens) + bytes(hidden);
  if (least > max_bytes_) return false;
  entry.hidden = std::move(hidden);
  hidden_bytes_ += bytes(entry.hidden);
  entry.place = recent_.insert(recent_.begin(), &entry);
  row_bytes_ += bytes(*entry.row);
  entry.row_place = recent_rows_.insert(recent_rows_.begin(), &entry);
  if (least + bytes(*entry.row) > max_bytes_) drop_row(entry);
  make_room();
  return true;
}

void LogprobRows::make_room() {
  while (used() > max_bytes_ && !recent_.empty()) {
    if (row_bytes_ > max_bytes_ / kRowShare) {
      drop_row(*recent_rows_.back());
    } else {
      ++stats_.evicted;
      drop(*recent_.back());
    }
  }
}

void LogprobRows::drop_row(Entry& entry) {
  row_bytes_ -= bytes(*entry.row);
  recent_rows_.erase(entry.row_place);
  entry.row.reset();
}

void LogprobRows::drop(Entry& entry) {
  if (entry.row != nullptr) drop_row(entry);
  hidden_bytes_ -= bytes(entry.hidden);
  recent_.erase(entry.place);
  tree_.erase(*entry.node);
}

void LogprobRows::count_tokens(int tokens) {
  const std::lock_guard lock(mutex_);
  stats_.tokens_computed += static_cast<std::uint64_t>(tokens);
}

// The newest first: they mostly continue the older ones, and leaves leave nothing to be joined.
void LogprobRows::clear() {
  const std::lock_guard lock(mutex_);
  while (!recent_.empty()) drop(*recent_.front());
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
  LogprobStats stats = stats_;
  stats.rows = recent_rows_.size();
  stats.hidden_states = recent_.size();
  stats.bytes = used();
  return stats;
}

}  // namespace dalsegno
