#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dalsegno/types.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// Chooses the next token from logits [vocabulary]. The draw is a pure function of the logits, the options,
// `history` and (seed, stream, position); ties in argmax go to the lowest id. Keeps scratch memory
// between calls, so that a decode step allocates nothing.
// Order: repeat penalty, temperature, top_k, top_p, min_p, draw. temperature 0: argmax after the penalty.
// Threads: one at a time.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, const Kernels& kernels, int vocabulary);
  // history: prompt and reply so far, for the repeat penalty. position: of the token being chosen.
  // Requires: logits are finite.
  TokenId sample(std::span<const float> logits, std::span<const TokenId> history, int position);

 private:
  SamplingOptions options_;
  const Kernels* kernels_;
  std::vector<float> work_;
  std::vector<TokenId> order_;
};

// What is wrong with the options as a sentence, or empty.
[[nodiscard]] std::string check(const SamplingOptions& options);

// log_softmax in double with our own exp and log: the k best (id, logprob), best first, ties by id.
struct LogProbs {
  double log_sum_exp = 0;  // so logprob(id) = logits[id] - log_sum_exp
  std::vector<std::pair<TokenId, double>> top;
};
[[nodiscard]] LogProbs log_probs(std::span<const float> logits, int k);

}  // namespace dalsegno
