#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/types.hpp"
#include "runtime/constrained.hpp"
#include "runtime/request.hpp"
#include "sampling/sampler.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {

// Finds stop texts in a stream; holds back what may be the beginning of one.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);
  // Text that can be shown now. Once found() nothing more comes.
  std::string push(std::string_view text);
  std::string finish();
  [[nodiscard]] bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

inline constexpr const char* kProcessorFailed =
    "the logits processor threw, or left a logit that is not finite; use the least float to forbid a token";
inline constexpr const char* kAllForbidden =
    "every token is forbidden, by the logit bias or the logits processor, so the reply cannot go on; allow one";

// What follows a prompt, token by token: processed logits, what the constraint allows, the draw, text, stop texts, the
// end. A token that the constraint forces, as the only one it allows, is taken without logits.
// Threads: one at a time.
class Continuation {
 public:
  struct Parts {
    const Vocabulary& vocabulary;
    const Kernels& kernels;
    int context = 0;                                 // tokens in all; the one after is the last
    std::unique_ptr<ConstrainedText> constrained{};  // if the options have a constraint
  };
  // Requires: vocabulary and kernels outlive it; the options have been checked.
  Continuation(std::size_t prompt_tokens, const GenerateOptions& options, Parts parts);

  struct Next {
    TokenId token = 0;
    bool in_reply = false;  // false: it ends the turn
    double logprob = 0;     // if the options ask for it
    std::string text{};     // that can be shown now
    std::optional<FinishReason> finish{};
  };
  // May be called before next() with the same values, on any thread: most of its work, as far as that is the request's
  // own.
  void prepare(int position, std::span<const float> logits, std::span<const TokenId> tokens);
  // The token at position + 1. `error`: see failure(). Without a token: that, and `dead_end`.
  Next next(int position, std::span<const float> logits, std::span<const TokenId> tokens);
  // The token after the one before, if it is forced. To be called after each that did not finish, until there is none.
  std::optional<Next> forced();
  // Why next() or forced() said `error`.
  [[nodiscard]] const std::string& failure() const { return failure_; }
  // Text held back, once nothing more comes.
  std::string rest();

 private:
  bool process(std::span<const float> logits, std::span<const TokenId> tokens);
  // The token and its log-probability, not yet taken; or why there is none.
  Next choose(int position, std::span<const float> logits, std::span<const TokenId> tokens);
  // Where the constraint allows none: why not.
  std::optional<Next> forbid(std::span<const float>& logits);
  void take(Next& next);
  Next fail(std::string failure);

  const std::size_t prompt_tokens_;
  const int max_tokens_;
  const bool with_logprobs_;
  const LogitsProcessor process_;
  const Vocabulary& vocabulary_;
  const int context_;
  const std::unique_ptr<ConstrainedText> constrained_;
  std::vector<TokenId> biased_;  // sorted
  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stops_;
  std::vector<float> processed_;  // [vocabulary]
  std::optional<Next> prepared_;  // of prepared_at_
  int prepared_at_ = 0;
  int reply_tokens_ = 0;
  int forced_in_row_ = 0;
  std::string failure_;
};

}  // namespace dalsegno
