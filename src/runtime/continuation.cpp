#include "runtime/continuation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace dalsegno {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::max();

// Tokens at which a run that DRY counts ends.
Sampler::Breaks breaks_of(const SamplingOptions& options, const Vocabulary& vocabulary) {
  return [breakers = options.dry_breakers, &vocabulary](TokenId id) {
    const std::string_view text = vocabulary.bytes(id);
    return vocabulary.is_control(id) || std::any_of(breakers.begin(), breakers.end(), [&](const std::string& breaker) {
             return !breaker.empty() && text.find(breaker) != std::string_view::npos;
           });
  };
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopMatcher::push(std::string_view text) {
  if (found_) return {};
  held_ += text;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
  if (end != std::string::npos) {
    found_ = true;
    held_.resize(end);
    return std::exchange(held_, {});
  }
  // The longest tail that begins some stop text waits.
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
      if (held_.compare(held_.size() - length, length, stop, 0, length) == 0) {
        keep = length;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::finish() {
  return found_ ? std::string() : std::exchange(held_, {});
}

Continuation::Continuation(std::size_t prompt_tokens, const GenerateOptions& options, Parts parts)
    : prompt_tokens_(prompt_tokens),
      max_tokens_(options.max_tokens),
      with_logprobs_(options.logprobs),
      process_(options.logits_processor),
      vocabulary_(parts.vocabulary),
      context_(parts.context),
      constrained_(std::move(parts.constrained)),
      sampler_(options.sampling, parts.kernels, vocabulary_.size(), breaks_of(options.sampling, vocabulary_)),
      decoder_(vocabulary_, constrained_ != nullptr),
      stops_(options.stop) {
  for (const auto& each : options.sampling.logit_bias) biased_.push_back(each.first);
  std::ranges::sort(biased_);
}

// False if the processor threw, which must not end the engine's thread, or left values that cannot be drawn from.
bool Continuation::process(std::span<const float> logits, std::span<const TokenId> tokens) {
  processed_.assign(logits.begin(), logits.end());
  try {
    process_(tokens, processed_);
  } catch (...) {
    return false;
  }
  return std::ranges::all_of(processed_, [](float x) { return std::abs(x) <= std::numeric_limits<float>::max(); });
}

Continuation::Next Continuation::fail(std::string failure) {
  failure_ = std::move(failure);
  return {.finish = FinishReason::error};
}

// What the constraint does not allow gets the least float, of which nothing can make more.
std::optional<Continuation::Next> Continuation::forbid(std::span<const float>& logits) {
  const Result<const TokenMask*> allowed = constrained_->allowed();
  if (!allowed.ok()) return fail(allowed.error().message);
  if (allowed.value() == nullptr) return Next{.finish = FinishReason::dead_end};
  if (logits.data() != processed_.data()) processed_.assign(logits.begin(), logits.end());
  const auto words = allowed.value()->words();
  for (std::size_t i = 0; i < processed_.size(); ++i) {
    const bool keep = (words[i / 32] >> (i % 32) & 1U) != 0;
    processed_[i] = keep ? processed_[i] : kForbidden;
  }
  logits = processed_;
  return std::nullopt;
}

// Text, stop texts, the end.
void Continuation::take(Next& next) {
  if (vocabulary_.is_end_of_turn(next.token)) {
    next.finish = FinishReason::stop;
    return;
  }
  next.in_reply = true;
  ++reply_tokens_;
  next.text = stops_.push(decoder_.push(next.token));
  const Result<TextState> state = constrained_ ? constrained_->advance(next.token) : TextState::open;
  if (stops_.found()) {
    next.finish = FinishReason::stop;
  } else if (!state.ok()) {
    failure_ = state.error().message;
    next.finish = FinishReason::error;
  } else if (state.value() == TextState::complete) {
    next.finish = FinishReason::stop;
  } else if (reply_tokens_ >= max_tokens_) {
    next.finish = FinishReason::length;
  }
}

std::optional<Continuation::Next> Continuation::forced() {
  if (!constrained_) return std::nullopt;
  // A processor sees every token's logits, and a bias may forbid the token: then it is drawn, or not.
  const bool may_be_forced =
      !process_ && forced_in_row_ < kMostForced &&
      prompt_tokens_ + static_cast<std::size_t>(reply_tokens_) <= static_cast<std::size_t>(context_);
  if (may_be_forced) {
    const Result<std::optional<TokenId>> token = constrained_->forced();
    if (!token.ok()) return fail(token.error().message);
    if (token.value() && !std::ranges::binary_search(biased_, *token.value())) {
      ++forced_in_row_;
      Next next{.token = *token.value()};
      take(next);
      return next;
    }
  }
  forced_in_row_ = 0;
  constrained_->prepare();
  return std::nullopt;
}

// A processor is the caller's code: it runs on the engine's thread alone.
void Continuation::prepare(int position, std::span<const float> logits, std::span<const TokenId> tokens) {
  if (process_) return;
  prepared_ = choose(position, logits, tokens);
  prepared_at_ = position;
}

Continuation::Next Continuation::next(int position, std::span<const float> logits, std::span<const TokenId> tokens) {
  Next next = prepared_ && prepared_at_ == position ? *std::exchange(prepared_, std::nullopt)
                                                    : choose(position, logits, tokens);
  if (!next.finish) take(next);
  return next;
}

Continuation::Next Continuation::choose(int position, std::span<const float> logits, std::span<const TokenId> tokens) {
  if (process_) {
    if (!process(logits, tokens)) return fail(kProcessorFailed);
    logits = processed_;
  }
  if (constrained_) {
    if (std::optional<Next> end = forbid(logits); end) return *std::move(end);
  }
  const bool edited = process_ || constrained_;
  Next next{.token = kNoToken};
  if (!edited || logits[static_cast<std::size_t>(argmax(logits))] != kForbidden) {
    next.token = sampler_.sample(logits, tokens, position + 1, prompt_tokens_);
  }
  // Penalties may take what is allowed as low as what is not.
  const bool broken =
      constrained_ && next.token != kNoToken && logits[static_cast<std::size_t>(next.token)] == kForbidden;
  if (next.token == kNoToken || broken) {
    return constrained_ ? Next{.finish = FinishReason::dead_end} : fail(kAllForbidden);
  }
  if (with_logprobs_) {
    next.logprob = static_cast<double>(logits[static_cast<std::size_t>(next.token)]) - log_probs(logits, 0).log_sum_exp;
  }
  return next;
}

std::string Continuation::rest() {
  std::string text = stops_.push(decoder_.finish());
  text += stops_.finish();
  return text;
}

}  // namespace dalsegno
