#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dalsegno/types.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// Chooses the next token from logits [vocabulary]. The draw is a pure function of the logits, the options,
// `history` and (seed, stream, position); ties in argmax go to the lowest id. Keeps scratch memory
// between calls (13 bytes per vocabulary entry, none where greedy without a penalty), so that a decode
// step allocates nothing.
// Order: repeat penalty, temperature, top_k, top_p, min_p, draw. temperature 0: argmax after the penalty.
// Threads: one at a time.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, const Kernels& kernels, int vocabulary);
  // history: prompt and reply so far, for the repeat penalty. position: of the token being chosen.
  // Requires: logits are finite; check(options) is empty.
  TokenId sample(std::span<const float> logits, std::span<const TokenId> history, int position);

 private:
  // One candidate set in the making; counts refer to the front of order_.
  struct Candidates {
    std::size_t count = 0;   // how many remain
    std::size_t sorted = 0;  // how many of them are in their final place, best first
    double total = 0;        // sum of their weights
  };

  void penalise(std::span<const TokenId> history);
  void weigh();
  void sort_best(Candidates& candidates, std::size_t wanted);
  void keep_top_k(Candidates& candidates);
  void keep_top_p(Candidates& candidates);
  void keep_min_p(Candidates& candidates);
  void drop_below(Candidates& candidates, double least);
  [[nodiscard]] TokenId draw(const Candidates& candidates, double point) const;
  [[nodiscard]] double weight(std::size_t place) const;
  [[nodiscard]] double sum(std::size_t count) const;

  SamplingOptions options_;
  const Kernels* kernels_;
  bool greedy_;
  std::vector<std::uint8_t> seen_;  // [vocabulary] marks penalised ids; all zero between calls
  std::vector<float> logits_;       // [vocabulary] after the penalty, then divided by the temperature
  std::vector<float> weights_;      // [vocabulary] exp(logits_ - their maximum)
  std::vector<TokenId> order_;      // [vocabulary] candidates
};

// What is wrong with the options as a sentence, or empty.
[[nodiscard]] std::string check(const SamplingOptions& options);

// The id of the largest logit, the lowest of several. Requires: not empty, finite.
[[nodiscard]] TokenId argmax(std::span<const float> logits);

// log_softmax in double with our own exp and log: the k best (id, logprob), best first, ties by id.
struct LogProbs {
  double log_sum_exp = 0;  // so logprob(id) = logits[id] - log_sum_exp
  std::vector<std::pair<TokenId, double>> top;
};
// Requires: logits are finite. k beyond the vocabulary gives all of it.
[[nodiscard]] LogProbs log_probs(std::span<const float> logits, int k);

}  // namespace dalsegno
