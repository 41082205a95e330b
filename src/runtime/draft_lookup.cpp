#include "runtime/draft_lookup.hpp"

#include <algorithm>
#include <utility>

namespace dalsegno {
namespace {

// Each guess counts for so much of the mean.
constexpr double kNewest = 1.0 / 16;
// By how much more than the step itself a guess must bring, since neither share nor time is known well.
constexpr double kMargin = 1.25;
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
    share += kNewest * ((right ? 1.0 : 0.0) - share);
    if (!right) return;
  }
}

Drafter::Draft DraftLookup::choose(const Source& source, const Question& question) const {
  Draft draft;
  double seconds = question.step.seconds;
  if (seconds <= 0) return draft;  // then nobody can tell what pays
  double share = 1;                // that all guesses so far are right
  const std::size_t most = std::min(source.tokens.size(), static_cast<std::size_t>(std::max(0, question.most)));
  for (std::size_t i = 0; i < most; ++i) {
    share *= right_[kind(source, i)];
    const double rate = (question.step.tokens + draft.expected) / seconds;
    if (share < kMargin * rate * question.step.guess_seconds) break;
    draft.tokens.push_back(source.tokens[i]);
    draft.expected += share;
    seconds += question.step.guess_seconds;
  }
  return draft;
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

std::shared_ptr<Drafter> drafter_for(const GenerateOptions& options) {
  return options.speculation == Speculation::off ? nullptr : std::make_shared<DraftLookup>();
}

}  // namespace dalsegno
