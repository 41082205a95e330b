#pragma once

#include <memory>

#include "cache/kv_cache.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno {

// A sequence's ordered blocks and how many of their positions are filled. Only a KvCache makes and
// changes one. Its beginning may be shared with the index and with other tables; the page that is
// written next never is. Move-only; a table still open when destroyed is discarded.
// Threads: engine thread only. Lifetime: closed, discarded or destroyed before its cache.
class BlockTable {
 public:
  struct State;

  BlockTable() noexcept;  // holds nothing and cannot be extended
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  ~BlockTable();

  [[nodiscard]] bool is_open() const { return state_ != nullptr; }
  [[nodiscard]] int tokens() const;    // committed
  [[nodiscard]] int capacity() const;  // positions there is room for, the committed ones included
  [[nodiscard]] int blocks() const;    // blocks it holds, shared ones included

 private:
  friend class KvCache;
  explicit BlockTable(std::unique_ptr<State> state) noexcept;
  void reset() noexcept;
  std::unique_ptr<State> state_;
};

struct KvCache::Opened {
  BlockTable table;
  int reused = 0;
  Stopped stopped = Stopped::cold;
  int at = 0;
};

}  // namespace dalsegno
