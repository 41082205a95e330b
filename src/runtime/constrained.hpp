#pragma once

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

// Where one reply stands in its grammar.
// Threads: one at a time.
class ConstrainedText {
 public:
  // Requires: the thread outlives it; the state is the matcher's.
  ConstrainedText(Matcher matcher, TextState state, int vocabulary, MaskThread& thread);

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
  // or tokens it does not allow), exhausted (no memory for the vocabulary's trie).
  Result<std::unique_ptr<ConstrainedText>> begin(const Constraint& constraint, std::span<const TokenId> prompt);

 private:
  struct Compiled {
    Constraint constraint;
    Matcher beginning;
  };
  Result<Reservation> reserve_trie();
  Result<const Grammars*> grammars();
  Result<std::shared_ptr<const Compiled>> compiled(const Constraint& constraint);

  // Constant after construction.
  const Vocabulary& vocabulary_;
  const int logits_;  // how many a model makes
  ProcessMemory& memory_;

  std::mutex mutex_;
  // Guarded by mutex_.
  Reservation trie_;
  std::unique_ptr<Grammars> grammars_;
  std::deque<std::shared_ptr<const Compiled>> recent_;  // used last first

  MaskThread thread_;
};

}  // namespace dalsegno
