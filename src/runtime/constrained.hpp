#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "dalsegno/constraint.hpp"
#include "runtime/mask_thread.hpp"
#include "runtime/process_memory.hpp"
#include "text/grammar.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {

// A compiled grammar and its memory, which is reserved before it is taken: while texts follow it what it may come to,
// then what it has come to.
// Threads: any.
class CompiledGrammar {
 public:
  // What a grammar may take; a text that makes more of it ends.
  static std::uint64_t most_bytes(const Constraint& constraint);
  CompiledGrammar(Constraint of, Matcher at, Reservation memory)
      : constraint(std::move(of)), most(memory.bytes()), beginning_(std::move(at)), memory_(std::move(memory)) {}

  const Constraint constraint;
  const std::uint64_t most;
  // True once a text has come to a limit of what all its texts share: none can go on.
  const std::shared_ptr<std::atomic<bool>> spent = std::make_shared<std::atomic<bool>>(false);
  [[nodiscard]] Result<Matcher> clone() const { return beginning_.clone(); }
  // In use from the beginning on. Errors: exhausted.
  Result<void> begin_use(MemoryBudget& budget);
  void end_use(MemoryBudget& budget);
  [[nodiscard]] bool is_used() const;

 private:
  const Matcher beginning_;  // has a lock of its own
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  int uses_ = 1;
  Reservation memory_;
};

// Ends a use at its end.
class GrammarInUse {
 public:
  // Requires: a use has begun; the budget outlives it.
  GrammarInUse(std::shared_ptr<CompiledGrammar> grammar, MemoryBudget& budget)
      : grammar_(std::move(grammar)), budget_(budget) {}
  GrammarInUse(GrammarInUse&&) noexcept = default;
  GrammarInUse& operator=(GrammarInUse&&) = delete;
  ~GrammarInUse() {
    if (grammar_ != nullptr) grammar_->end_use(budget_);
  }
  CompiledGrammar* operator->() const { return grammar_.get(); }

 private:
  std::shared_ptr<CompiledGrammar> grammar_;
  MemoryBudget& budget_;
};

// Where one reply stands in its grammar.
// Threads: one at a time.
class ConstrainedText {
 public:
  // Requires: the thread outlives it; the state is the matcher's. Until its end the grammar's memory is reserved.
  ConstrainedText(Matcher matcher, TextState state, int vocabulary, GrammarInUse grammar, MaskThread& thread);

  // Which tokens may come next, computed since prepare(). Null: none, the text is dead.
  // Errors: invalid_argument (too complex to go on with). Valid until advance().
  Result<const TokenMask*> allowed();
  // Requires: allowed() has it, or forced() is it.
  Result<TextState> advance(TokenId token);
  // The token that must come next, if one must.
  Result<std::optional<TokenId>> forced();
  // Begins to compute what may come next. Nothing but allowed() may follow.
  void prepare();

 private:
  GrammarInUse grammar_;  // ends after the job
  std::shared_ptr<MaskJob> job_;
  MaskThread& thread_;
  TextState state_;
  bool prepared_ = false;
  bool known_ = false;  // job_ has the mask of this place
};

// The constraints of an engine: compiles them on the thread that asks, shares the compiled ones among requests, and
// has the thread that computes masks.
// Threads: any.
class Constraints {
 public:
  // Requires: both outlive it.
  Constraints(const Vocabulary& vocabulary, int logits, ProcessMemory& memory);

  // A text at its beginning, or as far as the prompt's last tokens take it. Errors: invalid_argument (the constraint,
  // or tokens it does not allow), exhausted (no memory for the vocabulary's trie or the grammar).
  Result<std::unique_ptr<ConstrainedText>> begin(const Constraint& constraint, std::span<const TokenId> prompt);
  // Compiles it, if it is not there yet. Errors: as begin().
  Result<void> check(const Constraint& constraint);
  // Forgets what nobody uses, the longest unused first, until no more than `target` bytes of the budget are taken.
  // Does not wait for compiling.
  void forget(std::uint64_t target);

 private:
  // If need be, what is cached makes way. Requires: none of the locks.
  void make_room(std::uint64_t bytes);
  Result<Reservation> reserve_trie();
  Result<const Grammars*> grammars();
  // One that is spent is forgotten, so that a next text does not end by what others made of it.
  std::shared_ptr<CompiledGrammar> recent(const Constraint& constraint);
  Result<GrammarInUse> compiled(const Constraint& constraint);

  // Constant after construction.
  const Vocabulary& vocabulary_;
  const int logits_;  // how many a model makes
  ProcessMemory& memory_;

  std::mutex trie_mutex_;
  // Guarded by trie_mutex_.
  Reservation trie_;
  std::unique_ptr<Grammars> grammars_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::deque<std::shared_ptr<CompiledGrammar>> recent_;  // used last first

  MaskThread thread_;
};

}  // namespace dalsegno
