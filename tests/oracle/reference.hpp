#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache/block_table.hpp"
#include "oracle/engines.hpp"

namespace dalsegno::oracle {

// An engine with the cache off, on one thread, that computes from the first token on what others were shown.
// Of several conversations that begin alike it computes the longest, once: with no reuse a position cannot tell.
// It works while the caller goes on: what was handed in is judged when the next is.
class Reference {
 public:
  explicit Reference(const Setup& setup);
  ~Reference();
  // Takes what was seen lately; empty, or which of what was handed in before differs.
  std::string judge(std::vector<Seen> seen);
  std::string judge_rest() { return judge({}); }
  [[nodiscard]] std::uint64_t compared() const { return compared_; }
  [[nodiscard]] std::uint64_t computed() const { return computed_; }

 private:
  class Watcher;
  struct Conversation {
    std::shared_ptr<Watcher> watcher;
    std::vector<Seen> seen;  // of these tokens, or of their beginning
  };
  void start(std::vector<Seen> seen);

  const std::unique_ptr<LocalEngine> engine_;
  BlockTable anchor_;
  std::vector<Conversation> under_way_;
  std::uint64_t compared_ = 0;
  std::uint64_t computed_ = 0;
};

}  // namespace dalsegno::oracle
