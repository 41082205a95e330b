#pragma once

#include <functional>
#include <vector>

#include "runtime/drafter.hpp"

namespace dalsegno {

// How many guesses pay, and how many of these will be right: as long as another one brings more tokens for its time
// than the step does without it, by a quarter.
struct PayingGuesses {
  int count = 0;
  double right = 0;
};
// most: that there are. right(i): the chance of the i-th, if those before it are right. seconds: that each takes.
[[nodiscard]] PayingGuesses paying_guesses(int most, const Drafter::Step& step, double seconds,
                                           const std::function<double(int)>& right);

// What steps of replies took lately: by how many tokens of replies they continue, and what each guess adds.
// Threads: engine thread only.
class StepCost {
 public:
  // A step with the next tokens of replies, `replies` of them, with so many guesses and nothing else.
  void learn(int replies, int guesses, double seconds);
  // Of a step that continues so many, before it has guesses. seconds == 0: there was none like it yet.
  // prompt_token: what one takes, which is near to what a guess takes before there was one; 0: unknown.
  [[nodiscard]] Drafter::Step step(int replies, double prompt_token) const;

 private:
  std::vector<double> plain_;  // [replies], seconds; 0: unknown
  double guess_ = 0;           // seconds; 0: unknown
};

}  // namespace dalsegno
