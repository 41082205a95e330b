#pragma once

#include <functional>
#include <span>
#include <vector>

#include "dalsegno/types.hpp"

namespace dalsegno {

// Guesses which tokens a sequence will have next. They are computed in the same step as the token before them, and each
// is kept if the logits before it lead to the same token; so a wrong one costs time and changes nothing else.
// Threads: engine thread only.
class Drafter {
 public:
  // What the step comes to without guesses, and what each adds, as far as is known from those before.
  struct Step {
    double tokens = 1;   // of replies that it brings
    double seconds = 0;  // 0: unknown
    double guess_seconds = 0;
  };
  struct Question {
    std::span<const TokenId> tokens;  // the sequence so far
    int most = 0;                     // guesses that there is room for; 0: what is known can still be learned from
    Step step;
    // What other sequences had after these tokens, as far as the cache holds it; at most so many.
    std::function<std::vector<TokenId>(int most)> cached;
  };
  struct Draft {
    std::vector<TokenId> tokens{};  // at most `most`
    double expected = 0;            // how many of them will be right
  };

  virtual ~Drafter() = default;
  // Before each step that brings the sequence's next token.
  virtual Draft draft(const Question& question) = 0;
};

// Guesses for all sequences of a step together, after each one's own drafter has been asked: for what has to compute.
// Threads: engine thread only.
class StepDrafter {
 public:
  struct Asked {
    Drafter* drafter = nullptr;  // the sequence's own
    Drafter::Question question{};
    Drafter::Draft draft{};  // what that one guessed; may be replaced
  };
  virtual ~StepDrafter() = default;
  // step: with all these drafts. Returns when they are what will be computed.
  virtual void draft(std::span<Asked> asked, const Drafter::Step& step) = 0;
};

}  // namespace dalsegno
