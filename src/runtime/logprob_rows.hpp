#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/logprobs.hpp"
#include "runtime/process_memory.hpp"
#include "runtime/token_tree.hpp"

namespace dalsegno {

// What queries of one LogprobCache know, found by their tokens: queries on their way, the hidden states of those
// answered, and of the last of these the rows as well. Where room is wanted, rows go until they are no more than a
// share, then whole answers; what was used longest ago first. It runs no model. Threads: any.
class LogprobRows {
  struct Entry;
  using Tree = TokenTree<Entry>;

 public:
  using HiddenState = std::shared_ptr<const std::vector<float>>;

  // An answer, on its way or there.
  struct Row {
    std::promise<Result<FinishReason>> end;
    const std::shared_future<Result<FinishReason>> ended = end.get_future().share();
    // The logits once it has ended, the log-probabilities once someone has asked for them: a thousand exponentials are
    // the asking thread's work, not the engine's.
    std::vector<float> values;
    std::once_flag normalised;
    // While it is on its way. The head computes the values from it, or it comes with them.
    HiddenState hidden;

    // LogprobRows' own.
    Tree::Node* node = nullptr;  // while it is on its way
    bool by_head = false;
  };

  // Takes max_bytes from the budget. Errors: exhausted.
  static Result<std::shared_ptr<LogprobRows>> create(std::shared_ptr<ProcessMemory> memory, std::uint64_t max_bytes);

  // Who has to compute a row so that it comes to its end.
  enum class Needs : std::uint8_t { nothing, head, model };
  struct Found {
    std::shared_ptr<Row> row;
    Needs needs = Needs::nothing;
  };
  // The row of these tokens, kept or on its way; where it is neither, it is on its way from now on. One that needs the
  // head stands in the queue of take(), and the caller sees to it that take() is called.
  Found find(std::span<const TokenId> tokens);
  // Up to `most` rows that need the head, in order of arrival.
  std::vector<std::shared_ptr<Row>> take(std::size_t most);
  // Ends a row that was on its way: keeps it if it has come to its end without an error and there is room.
  void end(const std::shared_ptr<Row>& row, Result<FinishReason> outcome);
  // So many tokens of a query were computed anew.
  void count_tokens(int tokens);
  void clear();
  // What is kept, and what was taken from the budget for it, which the next answer kept takes again.
  void give_back();
  // Ends as the cache does, when the budget may end as well.
  void close();
  [[nodiscard]] LogprobStats stats() const;

 private:
  struct Entry {
    Tree::Node* node = nullptr;
    std::size_t tokens = 0;
    std::shared_ptr<Row> row;               // on its way, or kept
    HiddenState hidden;                     // if the answer is kept
    std::list<Entry*>::iterator place;      // in recent_, if the answer is kept
    std::list<Entry*>::iterator row_place;  // in recent_rows_, if the row is kept as well
  };

  LogprobRows(std::shared_ptr<ProcessMemory> memory, std::uint64_t max_bytes)
      : memory_(std::move(memory)), max_bytes_(max_bytes) {}
  static std::uint64_t bytes(const HiddenState& hidden);
  static std::uint64_t bytes(const Row& row);
  [[nodiscard]] std::uint64_t used() const { return tree_.bytes() + hidden_bytes_ + row_bytes_; }
  bool reserve();
  bool keep(Entry& entry);
  void drop_row(Entry& entry);
  void drop(Entry& entry);
  void make_room();

  std::shared_ptr<ProcessMemory> memory_;
  const std::uint64_t max_bytes_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Reservation room_;
  bool closed_ = false;
  Tree tree_;
  std::list<Entry*> recent_;       // answers kept, least recently used last
  std::list<Entry*> recent_rows_;  // those of them whose rows are kept
  std::uint64_t hidden_bytes_ = 0;
  std::uint64_t row_bytes_ = 0;
  std::deque<std::shared_ptr<Row>> need_head_;
  LogprobStats stats_;
};

}  // namespace dalsegno
