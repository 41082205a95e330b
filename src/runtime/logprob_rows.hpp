#pragma once

#include <cstdint>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/logprobs.hpp"
#include "runtime/process_memory.hpp"

namespace dalsegno {

// What queries of one LogprobCache know: rows kept, least recently used last, and queries on their way, found by
// their tokens. It runs no model.
// Threads: any.
class LogprobRows {
 public:
  struct Row {
    explicit Row(std::vector<TokenId> for_tokens) : tokens(std::move(for_tokens)) {}
    const std::vector<TokenId> tokens;
    std::promise<Result<FinishReason>> end;
    const std::shared_future<Result<FinishReason>> ended = end.get_future().share();
    // The logits once it has ended, the log-probabilities once someone has asked for them: a thousand exponentials are
    // the asking thread's work, not the engine's.
    std::vector<float> values;
    std::once_flag normalised;

   private:
    friend class LogprobRows;
    std::list<Row*>::iterator place;  // in recent_; guarded by mutex_
    bool kept = false;
  };

  // Takes max_bytes from the budget. Errors: exhausted.
  static Result<std::shared_ptr<LogprobRows>> create(std::shared_ptr<ProcessMemory> memory, std::uint64_t max_bytes);

  // The row of these tokens, kept or on its way; if there is none it is on its way from now on and `is_new`, and the
  // caller computes it.
  std::shared_ptr<Row> find(std::span<const TokenId> tokens, bool& is_new);
  // Ends a row that was on its way: keeps it if it has come to its end without an error and there is room.
  void end(const std::shared_ptr<Row>& row, Result<FinishReason> outcome);
  void clear();
  // Rows, and what was taken from the budget for them, which the next row kept takes again.
  void give_back();
  // Ends as the cache does, when the budget may end as well.
  void close();
  [[nodiscard]] LogprobStats stats() const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::span<const TokenId> tokens) const;
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(std::span<const TokenId> a, std::span<const TokenId> b) const;
  };

  LogprobRows(std::shared_ptr<ProcessMemory> memory, std::uint64_t max_bytes)
      : memory_(std::move(memory)), max_bytes_(max_bytes) {}
  static std::uint64_t bytes(const Row& row);
  bool reserve();
  void forget(Row& row);

  std::shared_ptr<ProcessMemory> memory_;
  const std::uint64_t max_bytes_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Reservation room_;
  bool closed_ = false;
  std::unordered_map<std::vector<TokenId>, std::shared_ptr<Row>, Hash, Equal> rows_;
  std::list<Row*> recent_;  // those kept
  LogprobStats stats_;
};

}  // namespace dalsegno
