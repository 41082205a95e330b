#include <algorithm>
#include <limits>

#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

std::span<const TokenId> last(std::span<const TokenId> tokens, int count) {
  return tokens.last(std::min(tokens.size(), static_cast<std::size_t>(count)));
}

// For each i >= 1: how many tokens before the end of `tokens` equal those before place size - i, at most `most`;
// runs[0] stays 0. The Z function of the tokens read backwards. Cost: linear.
void run_lengths(std::span<const TokenId> tokens, std::int32_t most, std::vector<std::int32_t>& runs) {
  const auto n = static_cast<std::int32_t>(tokens.size());
  const auto back = [&](std::int32_t i) { return tokens[static_cast<std::size_t>(n - 1 - i)]; };
  runs.assign(tokens.size(), 0);
  std::int32_t left = 0;
  std::int32_t right = 0;
  for (std::int32_t i = 1; i < n; ++i) {
    std::int32_t& run = runs[static_cast<std::size_t>(i)];
    if (i < right) run = std::min(right - i, runs[static_cast<std::size_t>(i - left)]);
    while (run < most && i + run < n && back(run) == back(i + run)) ++run;
    if (i + run > right) {
      left = i;
      right = i + run;
    }
  }
}

}  // namespace

void Sampler::lower(TokenId id, double by) {
  float& logit = logits_[static_cast<std::size_t>(id)];
  if (logit == -kLargest) return;  // forbidden
  logit = static_cast<float>(std::clamp(static_cast<double>(logit) - by, -double{kLargest}, double{kLargest}));
}

// Judged here, since penalties may take a logit as low without forbidding its token.
void Sampler::add_bias(Choice& choice) {
  for (const auto& [id, bias] : options_.logit_bias) lower(id, -static_cast<double>(bias));
  choice.forbidden = std::ranges::all_of(logits_, [](float logit) { return logit == -kLargest; });
}

// Each token among the last repeat_last ones is made less likely once, however often it occurs.
void Sampler::penalise_repeats(Choice& choice) {
  const float penalty = options_.repeat_penalty;
  const auto recent = last(choice.history, options_.repeat_last);
  for (const TokenId id : recent) {
    const auto place = static_cast<std::size_t>(id);
    if (place >= counts_.size() || counts_[place] != 0) continue;
    counts_[place] = 1;
    const float logit = logits_[place];
    if (logit == -kLargest) continue;  // forbidden
    logits_[place] = std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kLargest, kLargest);
  }
  for (const TokenId id : recent) {
    if (static_cast<std::size_t>(id) < counts_.size()) counts_[static_cast<std::size_t>(id)] = 0;
  }
}

// As the OpenAI API defines them: over the reply alone, presence once per token, frequency per occurrence.
void Sampler::penalise_counts(Choice& choice) {
  const auto reply = choice.history.subspan(std::min(choice.reply_begin, choice.history.size()));
  for (const TokenId id : reply) {
    if (static_cast<std::size_t>(id) < counts_.size()) ++counts_[static_cast<std::size_t>(id)];
  }
  for (const TokenId id : reply) {
    if (static_cast<std::size_t>(id) >= counts_.size()) continue;
    const int count = std::exchange(counts_[static_cast<std::size_t>(id)], 0);
    if (count == 0) continue;
    lower(id, static_cast<double>(options_.frequency_penalty) * count + static_cast<double>(options_.presence_penalty));
  }
}

bool Sampler::breaks_run(TokenId id) {
  const auto place = static_cast<std::size_t>(id);
  if (place >= breaking_.size()) return true;
  if (breaking_[place] < 0) breaking_[place] = breaks_ && breaks_(id) ? 1 : 0;
  return breaking_[place] != 0;
}

// DRY ("don't repeat yourself"): a token that would make a run of tokens seen before longer than dry_allowed_length is
// lowered by multiplier * base ^ (length of the run - allowed), by the longest run it would continue. No run reaches
// over a breaking token, and none is continued by one.
void Sampler::penalise_runs(Choice& choice) {
  const auto tokens = last(choice.history, options_.dry_last);
  std::int32_t most = 0;
  while (most < static_cast<std::int32_t>(tokens.size()) && !breaks_run(tokens[tokens.size() - 1 - most])) ++most;
  if (most < options_.dry_allowed_length || most == 0) return;
  run_lengths(tokens, most, runs_);
  for (std::size_t i = 1; i < tokens.size(); ++i) {
    const TokenId next = tokens[tokens.size() - i];
    if (runs_[i] < options_.dry_allowed_length || runs_[i] == 0 || breaks_run(next)) continue;
    std::int32_t& longest = longest_[static_cast<std::size_t>(next)];
    longest = std::max(longest, runs_[i]);
  }
  for (const TokenId id : tokens) {
    if (static_cast<std::size_t>(id) >= longest_.size()) continue;
    const std::int32_t length = std::exchange(longest_[static_cast<std::size_t>(id)], 0);
    if (length == 0) continue;
    auto penalty = static_cast<double>(options_.dry_multiplier);
    const auto base = static_cast<double>(options_.dry_base);
    for (int i = options_.dry_allowed_length; i < length && penalty < double{kLargest}; ++i) penalty *= base;
    lower(id, penalty);
  }
}

}  // namespace dalsegno
