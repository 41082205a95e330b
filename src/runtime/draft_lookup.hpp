#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "runtime/draft_runs.hpp"
#include "runtime/drafter.hpp"

namespace dalsegno {

// Guesses what followed before: in other sequences after the very same tokens, as the cache has them, and in this one
// after its last few tokens. How often each kind of guess comes true is counted whether or not it is computed, so what
// does not pay costs a look-up per token, and what begins to pay is noticed without trying.
// A draft is as long as another guess brings more tokens for its time than the step does without it.
class DraftLookup final : public Drafter {
 public:
  Draft draft(const Question& question) override;

 private:
  // By how many tokens what followed was found: 2, 3, 4-5, 6-8, 9-16, 17 and more; and those of other sequences, where
  // all tokens agree.
  static constexpr std::size_t kCached = 6;
  static constexpr std::size_t kKinds = 7;
  struct Source {
    std::vector<TokenId> tokens;  // guessed
    int length = 0;               // tokens that agreed before the first; 0: all
  };
  [[nodiscard]] static std::size_t kind(const Source& source, std::size_t guess);
  void learn(const Source& source, std::span<const TokenId> came);
  [[nodiscard]] Draft choose(const Source& source, const Question& question) const;

  DraftRuns runs_;
  std::size_t asked_at_ = 0;  // tokens there were
  Source cached_;
  Source own_;
  std::array<double, kKinds> right_{0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 0.7};  // share of guesses that came true, lately
};

}  // namespace dalsegno
