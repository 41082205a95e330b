#include "runtime/generation.hpp"

#include <algorithm>
#include <utility>

namespace dalsegno {
namespace {

// Pieces of text that a slow reader may be behind before the engine waits for it.
constexpr std::size_t kMostAhead = 64;

}  // namespace

Generation::Generation(std::vector<TokenId> prompt, const GenerateOptions& options, const GenerateCallbacks& callbacks,
                       Continuation::Parts parts)
    : with_logprobs_(options.logprobs),
      is_followed_(callbacks.on_text || callbacks.on_prefill),
      continuation_(prompt.size(), options, std::move(parts)) {
  reply_.prompt_ids = std::move(prompt);
  reply_.usage.prompt_tokens = static_cast<int>(reply_.prompt_ids.size());
}

void Generation::on_admitted(const Admission& admission) {
  reply_.usage.reused_tokens = admission.reused;
  reply_.reuse = admission.report();
}

void Generation::on_progress(int done, int total) {
  reply_.usage.prefilled_tokens = done - reply_.usage.reused_tokens;
  if (!is_followed_) return;
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
  if (!is_followed_) return;
  {
    const std::lock_guard lock(mutex_);
    new_text_.push_back({std::move(text), reply_.ids.size()});
  }
  changed_.notify_one();
}

void Generation::take(Continuation::Next& next) {
  ++sampled_;
  if (next.in_reply) reply_.ids.push_back(next.token);
  if (next.in_reply && with_logprobs_) reply_.logprobs.push_back(next.logprob);
  show(std::move(next.text));
}

Decision Generation::on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) {
  Continuation::Next next = continuation_.next(position, logits, tokens);
  last_token_ = Clock::now();
  if (sampled_ == 0) first_token_ = last_token_;
  take(next);
  Decision decision{Decision::Kind::append, next.token, FinishReason::stop};
  if (next.finish) return {Decision::Kind::finish, next.token, *next.finish};
  while (std::optional<Continuation::Next> forced = continuation_.forced()) {
    take(*forced);
    if (forced->finish) return ended(std::move(decision), *forced->finish);
    decision.forced.push_back(forced->token);
  }
  return decision;
}

void Generation::on_drafted(int proposed, int accepted) {
  reply_.usage.proposed_tokens += proposed;
  reply_.usage.accepted_tokens += accepted;
}

void Generation::on_finished(Result<FinishReason> outcome) {
  show(continuation_.rest());
  {
    const std::lock_guard lock(mutex_);
    outcome_ = std::move(outcome);
  }
  changed_.notify_one();
}

int Generation::most_wanted() {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(kMostAhead) - static_cast<int>(new_text_.size());
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
    if (pieces.size() >= kMostAhead) resume();
    try {
      // Prefill comes before text, so reporting it first keeps the order.
      if (!cut_short_ && progress && callbacks.on_prefill) cut_short_ = !callbacks.on_prefill(done, total);
      for (const Piece& piece : pieces) {
        if (!cut_short_) cut_short_ = !deliver(piece, callbacks);
      }
    } catch (...) {
      cancel();  // nobody reads on
      throw;
    }
    if (ended) break;
    if (cut_short_) cancel();
    lock.lock();
  }
  if (!outcome_->ok()) return std::move(*outcome_).error();
  if (outcome_->value() == FinishReason::error) return Error{ErrorCode::invalid_argument, continuation_.failure()};
  if (!cut_short_) return reply(outcome_->value());
  // What was computed beyond stays in the cache, but is no part of the reply.
  reply_.text = std::move(delivered_.text);
  reply_.ids.resize(delivered_.ids);
  reply_.logprobs.resize(std::min(reply_.logprobs.size(), delivered_.ids));
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
