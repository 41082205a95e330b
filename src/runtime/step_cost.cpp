#include "runtime/step_cost.hpp"

#include <algorithm>

namespace dalsegno {
namespace {

// The newest step's part of a mean.
constexpr double kNewest = 0.25;
// A step that others held up counts as so many times the mean at most.
constexpr double kMostPlain = 2;
constexpr double kMostGuess = 4;
// Without any step that says so, a guess is taken to cost this share of a step, and it never costs less than that.
constexpr double kFirstGuess = 0.25;
constexpr double kLeastGuess = 0.01;
// By how much more than the step itself a guess must bring, since neither share nor time is known well.
constexpr double kMargin = 1.25;

void add(double& mean, double sample, double most) {
  mean += mean > 0 ? kNewest * (std::min(sample, most * mean) - mean) : sample;
}

}  // namespace

PayingGuesses paying_guesses(int most, const Drafter::Step& step, double seconds,
                             const std::function<double(int)>& right) {
  PayingGuesses paying;
  if (step.seconds <= 0) return paying;  // then nobody can tell
  double in_all = step.seconds;
  double share = 1;  // that all guesses so far are right
  for (; paying.count < most; ++paying.count) {
    share *= right(paying.count);
    if (share < kMargin * (step.tokens + paying.right) / in_all * seconds) break;
    paying.right += share;
    in_all += seconds;
  }
  return paying;
}

void StepCost::learn(int replies, int guesses, double seconds) {
  const auto at = static_cast<std::size_t>(replies);
  plain_.resize(std::max(plain_.size(), at + 1));
  if (guesses == 0) return add(plain_[at], seconds, kMostPlain);
  if (plain_[at] <= 0) return;
  const double extra = (seconds - plain_[at]) / guesses;
  add(guess_, std::max(extra, kLeastGuess * plain_[at]), kMostGuess);
}

Drafter::Step StepCost::step(int replies, double prompt_token) const {
  const auto at = static_cast<std::size_t>(replies);
  const double seconds = at < plain_.size() ? plain_[at] : 0;
  const double unknown = prompt_token > 0 ? prompt_token : kFirstGuess * seconds;
  return {static_cast<double>(replies), seconds, guess_ > 0 ? guess_ : unknown};
}

}  // namespace dalsegno
