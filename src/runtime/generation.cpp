#include "runtime/generation.hpp"

#include <algorithm>

namespace dalsegno {

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

Generation::Generation(std::vector<TokenId> prompt, const GenerateOptions& options, const Vocabulary& vocabulary,
                       const Kernels& kernels)
    : options_(options),
      vocabulary_(vocabulary),
      sampler_(options.sampling, kernels, vocabulary.size(), breaks_of(options.sampling, vocabulary)),
      decoder_(vocabulary),
      stops_(options.stop) {
  reply_.prompt_ids = std::move(prompt);
  reply_.usage.prompt_tokens = static_cast<int>(reply_.prompt_ids.size());
}

void Generation::on_admitted(const Admission& admission) {
  reply_.usage.reused_tokens = admission.reused;
  reply_.reuse = admission.report();
}

void Generation::on_progress(int done, int total) {
  reply_.usage.prefilled_tokens = done - reply_.usage.reused_tokens;
  {
    const std::lock_guard lock(mutex_);
    progress_done_ = done;
    progress_total_ = total;
    progress_new_ = true;
  }
  changed_.notify_one();
}

void Generation::show(std::string text) {
  if (text.empty()) return;
  reply_.text += text;
  {
    const std::lock_guard lock(mutex_);
    new_text_.push_back({std::move(text), reply_.ids.size()});
  }
  changed_.notify_one();
}

Decision Generation::on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) {
  const TokenId token = sampler_.sample(logits, tokens, position + 1, reply_.prompt_ids.size());
  last_token_ = Clock::now();
  if (sampled_++ == 0) first_token_ = last_token_;
  if (vocabulary_.is_end_of_turn(token)) return {Decision::Kind::finish, token, FinishReason::stop};
  reply_.ids.push_back(token);
  show(stops_.push(decoder_.push(token)));
  if (stops_.found()) return {Decision::Kind::finish, token, FinishReason::stop};
  if (static_cast<int>(reply_.ids.size()) >= options_.max_tokens)
    return {Decision::Kind::finish, token, FinishReason::length};
  return {Decision::Kind::append, token, FinishReason::stop};
}

void Generation::on_finished(Result<FinishReason> outcome) {
  std::string rest = stops_.push(decoder_.finish());
  rest += stops_.finish();
  show(std::move(rest));
  {
    const std::lock_guard lock(mutex_);
    outcome_ = std::move(outcome);
  }
  changed_.notify_one();
}

// False once a callback has asked for the end.
bool Generation::deliver(const Piece& piece, const GenerateCallbacks& callbacks) {
  delivered_.text += piece.text;
  delivered_.ids = piece.ids;
  return !callbacks.on_text || callbacks.on_text(piece.text);
}

Result<Reply> Generation::wait(const GenerateCallbacks& callbacks) {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !new_text_.empty() || progress_new_ || outcome_.has_value(); });
    const std::deque<Piece> pieces = std::exchange(new_text_, {});
    const bool progress = std::exchange(progress_new_, false);
    const int done = progress_done_;
    const int total = progress_total_;
    const bool ended = outcome_.has_value();
    lock.unlock();
    // Prefill comes before text, so reporting it first keeps the order.
    if (!cut_short_ && progress && callbacks.on_prefill) cut_short_ = !callbacks.on_prefill(done, total);
    for (const Piece& piece : pieces) {
      if (!cut_short_) cut_short_ = !deliver(piece, callbacks);
    }
    if (ended) break;
    if (cut_short_) cancel();
    lock.lock();
  }
  if (!outcome_->ok()) return std::move(*outcome_).error();
  if (!cut_short_) return reply(outcome_->value());
  // What was computed beyond stays in the cache, but is no part of the reply.
  reply_.text = std::move(delivered_.text);
  reply_.ids.resize(delivered_.ids);
  return reply(FinishReason::cancelled);
}

Reply Generation::reply(FinishReason reason) {
  using Milliseconds = std::chrono::duration<double, std::milli>;
  reply_.finish_reason = reason;
  reply_.usage.reply_tokens = static_cast<int>(reply_.ids.size());
  if (sampled_ > 0) reply_.ttft_ms = Milliseconds(first_token_ - started_).count();
  const double seconds = std::chrono::duration<double>(last_token_ - first_token_).count();
  if (sampled_ > 1 && seconds > 0) reply_.tokens_per_second = (sampled_ - 1) / seconds;
  return std::move(reply_);
}

}  // namespace dalsegno
