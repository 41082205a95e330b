#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dalsegno/types.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// Instead of a token: every one is forbidden.
inline constexpr TokenId kNoToken = -1;

// Chooses the next token from logits [vocabulary]. The draw is a pure function of the logits, the options, the tokens
// before it and (seed, stream, position); ties in argmax go to the lowest id. Keeps scratch memory between calls (at
// most 21 bytes per vocabulary entry, none where greedy without changes to logits), so that a decode step allocates
// nothing.
// The options act in the order of kStages (stages.cpp). temperature 0: argmax of the logits as they are by then.
// Threads: one at a time.
class Sampler {
 public:
  // Whether a token ends a run that DRY may count.
  using Breaks = std::function<bool(TokenId)>;

  Sampler(const SamplingOptions& options, const Kernels& kernels, int vocabulary, Breaks breaks = {});
  // history: prompt and reply so far; the reply begins at reply_begin. position: of the token being chosen.
  // kNoToken if logit_bias leaves none, together with logits that are the least float already.
  // Requires: logits are finite; check(options, vocabulary) is empty.
  TokenId sample(std::span<const float> logits, std::span<const TokenId> history, int position,
                 std::size_t reply_begin = 0);
  // What sample() draws from: the tokens left and their chances, which sum to 1.
  std::vector<std::pair<TokenId, double>> distribution(std::span<const float> logits, std::span<const TokenId> history,
                                                       std::size_t reply_begin = 0);

 private:
  // One choice in the making. Counts refer to the front of order_.
  struct Choice {
    std::span<const TokenId> history;
    std::size_t reply_begin = 0;
    std::size_t count = 0;   // candidates that remain
    std::size_t sorted = 0;  // how many of them are in their final place, best first
    double total = -1;       // sum of their weights; negative: not known
    bool forbidden = false;  // all are
  };
  struct Stage {
    const char* option;
    bool (*active)(const SamplingOptions&);
    void (Sampler::*apply)(Choice&);
    bool changes_logits;  // acts before the temperature, on greedy choices as well
  };
  static const std::array<Stage, 9> kStages;

  void prepare(std::span<const float> logits, Choice& choice);

  // Stages that change logits (penalties.cpp).
  void add_bias(Choice& choice);
  void penalise_repeats(Choice& choice);
  void penalise_counts(Choice& choice);
  void penalise_runs(Choice& choice);
  void lower(TokenId id, double by);
  bool breaks_run(TokenId id);

  // Stages that weigh candidates and drop some (filters.cpp).
  void weigh(Choice& choice);
  void keep_top_k(Choice& choice);
  void keep_typical(Choice& choice);
  void keep_top_p(Choice& choice);
  void keep_min_p(Choice& choice);
  template <class Better>
  void sort_front(Choice& choice, std::size_t wanted, const Better& better);
  template <class Better>
  void keep_share(Choice& choice, double share, const Better& better);
  void drop_below(Choice& choice, double least);
  [[nodiscard]] bool likelier(TokenId a, TokenId b) const;
  [[nodiscard]] double weight(std::size_t place) const;
  double total(Choice& choice) const;

  [[nodiscard]] TokenId draw(Choice& choice, double point) const;

  SamplingOptions options_;
  const Kernels* kernels_;
  Breaks breaks_;
  bool greedy_;
  std::vector<const Stage*> stages_;   // those that the options ask for, in order
  std::vector<std::int32_t> counts_;   // [vocabulary] of tokens looked back at; all zero between calls
  std::vector<std::int8_t> breaking_;  // [vocabulary] what breaks_ said: 1, 0, or -1 where it was not asked yet
  std::vector<std::int32_t> runs_;     // [DRY's window] lengths of runs
  std::vector<std::int32_t> longest_;  // [vocabulary] the longest run a token would continue; zero between calls
  std::vector<float> logits_;          // [vocabulary] after the penalties, then divided by the temperature
  std::vector<float> weights_;         // [vocabulary] exp(logits_ - their maximum)
  std::vector<TokenId> order_;         // [vocabulary] candidates
};

// What is wrong with the options as a sentence, or empty.
[[nodiscard]] std::string check(const SamplingOptions& options, int vocabulary);

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
