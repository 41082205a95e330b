#include "runtime/continuation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace dalsegno {
namespace {

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

Continuation::Continuation(std::size_t prompt_tokens, const GenerateOptions& options, const Vocabulary& vocabulary,
                           const Kernels& kernels)
    : prompt_tokens_(prompt_tokens),
      max_tokens_(options.max_tokens),
      with_logprobs_(options.logprobs),
      process_(options.logits_processor),
      vocabulary_(vocabulary),
      sampler_(options.sampling, kernels, vocabulary.size(), breaks_of(options.sampling, vocabulary)),
      decoder_(vocabulary),
      stops_(options.stop) {}

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

Continuation::Next Continuation::fail(const char* failure) {
  failure_ = failure;
  return {.finish = FinishReason::error};
}

Continuation::Next Continuation::next(int position, std::span<const float> logits, std::span<const TokenId> tokens) {
  if (process_) {
    if (!process(logits, tokens)) return fail(kProcessorFailed);
    logits = processed_;
    if (logits[static_cast<std::size_t>(argmax(logits))] == -std::numeric_limits<float>::max()) {
      return fail(kAllForbidden);
    }
  }
  Next next{.token = sampler_.sample(logits, tokens, position + 1, prompt_tokens_)};
  if (next.token == kNoToken) return fail(kAllForbidden);
  if (with_logprobs_) {
    next.logprob = static_cast<double>(logits[static_cast<std::size_t>(next.token)]) - log_probs(logits, 0).log_sum_exp;
  }
  if (vocabulary_.is_end_of_turn(next.token)) {
    next.finish = FinishReason::stop;
    return next;
  }
  next.in_reply = true;
  ++reply_tokens_;
  next.text = stops_.push(decoder_.push(next.token));
  if (stops_.found()) {
    next.finish = FinishReason::stop;
  } else if (reply_tokens_ >= max_tokens_) {
    next.finish = FinishReason::length;
  }
  return next;
}

std::string Continuation::rest() {
  std::string text = stops_.push(decoder_.finish());
  text += stops_.finish();
  return text;
}

}  // namespace dalsegno
