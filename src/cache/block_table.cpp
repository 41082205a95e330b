#include "cache/block_table.hpp"

#include <algorithm>
#include <utility>

#include "cache/table_state.hpp"

namespace dalsegno {

BlockTable::BlockTable() noexcept = default;
BlockTable::BlockTable(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
BlockTable::BlockTable(BlockTable&& other) noexcept : state_(std::move(other.state_)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this != &other) {
    reset();
    state_ = std::move(other.state_);
  }
  return *this;
}

BlockTable::~BlockTable() {
  reset();
}

void BlockTable::reset() noexcept {
  if (state_ != nullptr && state_->cache != nullptr) state_->cache->discard(std::move(*this));
  state_.reset();
}

int BlockTable::tokens() const {
  return state_ == nullptr ? 0 : state_->tokens;
}
int BlockTable::capacity() const {
  if (state_ == nullptr) return 0;
  const bool windows = state_->cache != nullptr && state_->cache->layout().slides();
  return windows ? std::min(state_->capacity, state_->window_capacity) : state_->capacity;
}
int BlockTable::blocks() const {
  return state_ == nullptr ? 0 : static_cast<int>(state_->blocks());
}

}  // namespace dalsegno
