#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno {

// How a request's prefix was reused.
struct Admission {
  int reused = 0;
  Stopped stopped = Stopped::cold;
  int at = 0;
  double token_seconds = 0;  // what a prompt token took lately; 0: unknown

  [[nodiscard]] Reuse report() const {
    return {reused > 0 ? "ram" : "none", stopped, at, reused, 1e3 * token_seconds * reused};
  }
};

inline constexpr int kMostForced = 64;

// What a request wants after seeing the logits of a position.
struct Decision {
  enum class Kind : std::uint8_t { wait, append, finish } kind = Kind::wait;
  TokenId token = 0;                         // append: the next token
  FinishReason reason = FinishReason::stop;  // finish
  // Without logits, at most 1 + kMostForced. append: those that follow the token; finish: those of the reply before
  // its last one, whose K/V are computed before the end.
  std::vector<TokenId> forced{};
};

// The end of a reply whose last tokens but one are those of `append`.
inline Decision ended(Decision append, FinishReason reason) {
  append.forced.insert(append.forced.begin(), append.token);
  return {Decision::Kind::finish, 0, reason, std::move(append.forced)};
}

// What the scheduler calls as it works on a sequence. All but prepare() and cancel() run on the engine thread
// and must not block. on_finished comes exactly once, last.
class Request {
 public:
  virtual ~Request() = default;

  // Called again with the same values if the sequence was preempted and resumed.
  virtual void on_admitted(const Admission& admission) = 0;
  // done of total prompt tokens have their K/V.
  virtual void on_progress(int /*done*/, int /*total*/) {}
  // Before on_logits(): what Model::logits_of() makes these logits from.
  virtual void on_hidden(std::span<const float> /*hidden*/) {}
  // Before on_logits() with the same values, or not at all: what may be done beside other requests. Any thread, while
  // the engine's waits.
  virtual void prepare(int /*position*/, std::span<const float> /*logits*/, std::span<const TokenId> /*tokens*/) {}
  // tokens: the sequence so far, so tokens.size() - 1 >= position. Each wanted position comes once, ascending.
  virtual Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) = 0;
  virtual void on_finished(Result<FinishReason> outcome) = 0;
  // A step that had a part of the sequence is over, and others may go on: what was noted for readers can be told.
  virtual void on_step_end() {}
  // After a step with guesses of Work::drafter: how many there were, and how many of them the sequence now has.
  virtual void on_drafted(int /*proposed*/, int /*accepted*/) {}
  // Of Work::hold, before on_finished: how many tokens are held, or why none are.
  virtual void on_held(const Result<int>& /*tokens*/) {}

  // False while whoever reads the reply is behind: no token is computed until resume().
  [[nodiscard]] virtual bool wants_more() { return true; }

  // How many tokens its reader may still be behind by; guesses do not go beyond.
  [[nodiscard]] virtual int most_wanted() { return std::numeric_limits<int>::max(); }

  // Any thread; takes effect before the next step. Requires: the scheduler still exists.
  void cancel() {
    cancelled_.store(true, std::memory_order_relaxed);
    resume();
  }
  [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Has wants_more() asked again.
  void resume() {
    if (wake_) wake_();
  }
  // By the scheduler, before anything else is called.
  void on_submitted(std::function<void()> wake) { wake_ = std::move(wake); }

 private:
  std::atomic<bool> cancelled_{false};
  std::function<void()> wake_;
};

}  // namespace dalsegno
