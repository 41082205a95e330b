#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "dalsegno/engine.hpp"
#include "runtime/continuation.hpp"
#include "runtime/request.hpp"

namespace dalsegno {

// One reply: samples on the engine thread, hands text and progress to the caller's thread.
class Generation final : public Request {
 public:
  // Requires: as of Continuation.
  // callbacks: those that wait() will be given.
  Generation(std::vector<TokenId> prompt, const GenerateOptions& options, const GenerateCallbacks& callbacks,
             Continuation::Parts parts);

  void on_admitted(const Admission& admission) override;
  void on_progress(int done, int total) override;
  void prepare(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    continuation_.prepare(position, logits, tokens);
  }
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override;
  void on_drafted(int proposed, int accepted) override;
  void on_finished(Result<FinishReason> outcome) override;
  bool wants_more() override { return most_wanted() > 0; }
  int most_wanted() override;

  // Runs the callbacks on this thread until the reply is done.
  Result<Reply> wait(const GenerateCallbacks& callbacks);

 private:
  using Clock = std::chrono::steady_clock;
  // A piece of new text, and how many of the reply's ids have come by then.
  struct Piece {
    std::string text;
    std::size_t ids = 0;
  };
  void show(std::string text);
  void take(Continuation::Next& next);
  bool deliver(const Piece& piece, const GenerateCallbacks& callbacks);
  Reply reply(FinishReason reason);

  // Constant after construction.
  const bool with_logprobs_;
  const bool is_followed_;  // else nobody is woken before the end
  const Clock::time_point started_ = Clock::now();

  // Engine thread until on_finished, the caller's after.
  Continuation continuation_;
  Reply reply_;
  Clock::time_point first_token_;
  Clock::time_point last_token_;
  int sampled_ = 0;  // an end-of-turn token included

  // The caller's thread only.
  Piece delivered_;         // all text so far
  bool cut_short_ = false;  // a callback ended the reply: it is what was delivered until then

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> new_text_;
  int progress_done_ = 0;
  int progress_total_ = 0;
  bool progress_new_ = false;
  std::optional<Result<FinishReason>> outcome_;
};

}  // namespace dalsegno
