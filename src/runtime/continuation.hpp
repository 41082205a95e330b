#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/types.hpp"
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

// What follows a prompt, token by token: processed logits, the draw, text, stop texts, the end.
// Threads: one at a time.
class Continuation {
 public:
  // Requires: vocabulary and kernels outlive it; the options have been checked.
  Continuation(std::size_t prompt_tokens, const GenerateOptions& options, const Vocabulary& vocabulary,
               const Kernels& kernels);

  struct Next {
    TokenId token = 0;
    bool in_reply = false;  // false: it ends the turn
    double logprob = 0;     // if the options ask for it
    std::string text{};     // that can be shown now
    std::optional<FinishReason> finish{};
  };
  // The token at position + 1. `error`: see failure().
  Next next(int position, std::span<const float> logits, std::span<const TokenId> tokens);
  // Why next() said `error`: one of the sentences above.
  [[nodiscard]] const char* failure() const { return failure_; }
  // Text held back, once nothing more comes.
  std::string rest();

 private:
  bool process(std::span<const float> logits, std::span<const TokenId> tokens);
  Next fail(const char* failure);

  const std::size_t prompt_tokens_;
  const int max_tokens_;
  const bool with_logprobs_;
  const LogitsProcessor process_;
  const Vocabulary& vocabulary_;
  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stops_;
  std::vector<float> processed_;  // [vocabulary]
  int reply_tokens_ = 0;
  const char* failure_ = nullptr;
};

}  // namespace dalsegno
