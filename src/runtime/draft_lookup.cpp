#include "runtime/draft_lookup.hpp"

#include <algorithm>
#include <utility>

#include "runtime/step_cost.hpp"

namespace dalsegno {
namespace {

// Each guess counts for so much of the mean.
constexpr double kNewestGuess = 1.0 / 16;
// What is looked at where there is room for no guess, to learn.
constexpr int kLeastLooked = 1;

}  // namespace

std::size_t DraftLookup::kind(const Source& source, std::size_t guess) {
  if (source.length == 0) return kCached;
  const std::size_t length = static_cast<std::size_t>(source.length) + guess;
  constexpr std::array<std::size_t, kCached - 1> kLongest{2, 3, 5, 8, 16};
  return static_cast<std::size_t>(std::ranges::lower_bound(kLongest, length) - kLongest.begin());
}

// A guess was one only if those before it were right.
void DraftLookup::learn(const Source& source, std::span<const TokenId> came) {
  for (std::size_t i = 0; i < std::min(source.tokens.size(), came.size()); ++i) {
    const bool right = source.tokens[i] == came[i];
    double& share = right_[kind(source, i)];
    share += kNewestGuess * ((right ? 1.0 : 0.0) - share);
    if (!right) return;
  }
}

Drafter::Draft DraftLookup::choose(const Source& source, const Question& question) const {
  const int most = std::min(static_cast<int>(source.tokens.size()), question.most);
  const PayingGuesses paying = paying_guesses(most, question.step, question.step.guess_seconds, [&](int guess) {
    return right_[kind(source, static_cast<std::size_t>(guess))];
  });
  return {{source.tokens.begin(), source.tokens.begin() + paying.count}, paying.right};
}

Drafter::Draft DraftLookup::draft(const Question& question) {
  const std::span<const TokenId> tokens = question.tokens;
  if (asked_at_ > 0 && asked_at_ <= tokens.size()) {
    learn(cached_, tokens.subspan(asked_at_));
    learn(own_, tokens.subspan(asked_at_));
  }
  asked_at_ = tokens.size();
  const int looked = std::max(kLeastLooked, question.most);
  cached_ = {question.cached(looked), 0};
  own_ = {};
  if (const auto run = runs_.find(tokens)) {
    own_.length = run->length;
    // Beyond the end of the sequence what followed is what has just been guessed: it goes round.
    for (auto at = static_cast<std::size_t>(run->end); std::cmp_less(own_.tokens.size(), looked); ++at) {
      own_.tokens.push_back(at < tokens.size() ? tokens[at] : own_.tokens[at - tokens.size()]);
    }
  }
  Draft others = choose(cached_, question);
  Draft own = choose(own_, question);
  return own.expected > others.expected ? std::move(own) : std::move(others);
}

}  // namespace dalsegno
