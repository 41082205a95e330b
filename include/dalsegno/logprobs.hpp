#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/engine.hpp"

namespace dalsegno {

// Natural logarithms of the next token's probabilities: [vocabulary] float32, each the float nearest to
// logit - log(sum of exp(logits)) in double. Valid for as long as it is held.
using LogprobRow = std::shared_ptr<const std::vector<float>>;

struct LogprobOptions {
  // affects behaviour
  std::string salt{};  // as of GenerateOptions: caches of different salts share nothing
  // affects performance
  std::uint64_t max_bytes = 128ULL << 20;  // of answers kept, taken from the memory budget at once
  int chunk = 512;                         // most tokens of one query per step
};

struct LogprobStats {
  std::uint64_t queries = 0;
  std::uint64_t hits = 0;             // answered from rows kept
  std::uint64_t joined = 0;           // answered by an equal query that was on its way
  std::uint64_t from_hidden = 0;      // by the output head alone, from a hidden state kept
  std::uint64_t computed = 0;         // by the whole model
  std::uint64_t tokens_computed = 0;  // of these queries, those that no K/V were cached of
  std::uint64_t evicted = 0;          // answers forgotten for room
  std::uint64_t rows = 0;             // kept now
  std::uint64_t hidden_states = 0;    // kept now; each answer that is kept has one
  std::uint64_t bytes = 0;            // of both, and of the tokens they belong to
};

// For probabilistic programs: the distribution of the next token after any tokens. Equal queries run the model once,
// those of several threads or of one batch run in common steps, and each continues from the longest beginning whose
// K/V are cached.
// What is kept of an answer is its row, which takes 4 bytes per token of the vocabulary, or where that is too much its
// last hidden state, which takes a hundredth of it and from which the output head alone makes the row again. Whichever
// way, a row has the same bits. Answers are given up least recently used first, rows before hidden states; all of them
// by release_all() or where the budget cannot spare them.
// Threads: any.
class LogprobCache {
 public:
  // Requires: the engine outlives it. Errors: exhausted (the budget cannot spare max_bytes).
  static Result<std::unique_ptr<LogprobCache>> create(Engine& engine, const LogprobOptions& options = {});
  ~LogprobCache();
  LogprobCache(const LogprobCache&) = delete;
  LogprobCache& operator=(const LogprobCache&) = delete;

  // An answer on its way. It may outlive the cache, but not the engine.
  class Query {
   public:
    [[nodiscard]] bool is_ready() const;
    // Blocks. Errors: invalid_argument (no tokens, ids outside the vocabulary, more than the context), exhausted
    // (can never fit the budget), numeric.
    [[nodiscard]] Result<LogprobRow> get() const;

   private:
    friend class LogprobCache;
    struct State;
    explicit Query(std::shared_ptr<State> state) : state_(std::move(state)) {}
    std::shared_ptr<State> state_;
  };
  [[nodiscard]] Query query(std::span<const TokenId> tokens);
  // All of them enter the queue together.
  [[nodiscard]] std::vector<Query> query(std::span<const std::vector<TokenId>> batch);

  // query() and get(). Of a batch, the first error if there is one.
  Result<LogprobRow> next_token_logprobs(std::span<const TokenId> tokens);
  Result<std::vector<LogprobRow>> next_token_logprobs(std::span<const std::vector<TokenId>> batch);

  // Computes the K/V of a prompt that queries will begin with, and keeps its whole blocks of 16 tokens until they are
  // cleared or the cache ends, whatever needs room; prompts that begin alike keep what they share once. Errors: as
  // Engine::pin(), and then the prompt's K/V are neither computed nor kept; queries work all the same.
  Result<void> cache_kv(std::span<const TokenId> prompt);
  // Forgets the answers kept, and all K/V of the engine that no running request uses.
  void clear_cache();
  // Forgets the K/V alone, those of cache_kv() too.
  void clear_kv_cache();

  [[nodiscard]] LogprobStats stats() const;

 private:
  struct Impl;
  explicit LogprobCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
