#pragma once

#include <future>
#include <optional>
#include <utility>

#include "runtime/request.hpp"

namespace dalsegno {

// A request whose submitter waits for nothing but its end. By itself it wants no logits: it computes
// K/V and leaves them in the cache.
class Waiter : public Request {
 public:
  void on_admitted(const Admission& admission) override { admission_ = admission; }
  Decision on_logits(int, std::span<const float>, std::span<const TokenId>) override { return {}; }
  void on_held(const Result<int>& tokens) override {
    if (!tokens.ok()) not_held_ = tokens.error();
  }
  void on_finished(Result<FinishReason> outcome) override {
    done_.set_value(outcome.ok() && not_held_ ? Result<FinishReason>(std::move(*not_held_)) : std::move(outcome));
  }

  // Once. Blocks. Errors: also why what was to be held is not.
  Result<FinishReason> wait() { return done_.get_future().get(); }
  // After wait().
  [[nodiscard]] const Admission& admission() const { return admission_; }

 private:
  Admission admission_;
  std::optional<Error> not_held_;
  std::promise<Result<FinishReason>> done_;
};

}  // namespace dalsegno
