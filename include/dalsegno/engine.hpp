#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dalsegno/cache_report.hpp"
#include "dalsegno/memory.hpp"
#include "dalsegno/result.hpp"
#include "dalsegno/tokenizer.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno {

struct EngineOptions {
  // affects behaviour
  std::string model_path;  // a GGUF file
  KvOptions kv;
  int activation_bits = 8;  // 8 or 16: of what quantised weights are multiplied by; 16 is the more exact
  int context = 0;          // most tokens of one sequence; 0: what the model was trained for
  MemoryOptions memory;     // of the whole process
  // Of the blocks computed, the share that is computed once more while the engine is idle and compared byte by byte.
  // Negative: one in 256, in debug builds one in 8; 0: none.
  double audit_share = -1;
  // K/V in bytes that may stay cached of the requests of one salt, and of each salt not named; 0: whatever there is
  // room for. A tenant beyond its quota makes room for its own blocks; what runs may take more meanwhile.
  std::map<std::string, std::uint64_t> quotas;
  std::uint64_t quota_bytes = 0;
  // affects performance
  double step_ms = 50;             // how long a step that continues replies may work on prompts beside them
  int threads = 0;                 // 0: one per core
  std::string eviction = "value";  // which cached blocks make room for others, or "lru"; see docs/memory.md
  // A GGUF file of a small model with the same vocabulary, which guesses what replies will say where that is faster;
  // see docs/api.md. Empty: none.
  std::string draft_model_path;
};

// What the draft model has done since the engine was opened.
struct DraftReport {
  static constexpr int kMostGuesses = 16;  // of one draft
  // Tokens that it guessed, and those of them that were right, by their place in a draft. A guess after a wrong one is
  // none.
  std::array<std::uint64_t, kMostGuesses> proposed{};
  std::array<std::uint64_t, kMostGuesses> accepted{};
  std::uint64_t trials = 0;  // guesses that were not known to pay, made to see whether they do
  std::uint64_t passes = 0;  // of the model
  std::uint64_t read = 0;    // tokens that it read before it could guess
  double seconds = 0;        // that passes took
  double pass_ms = 0;        // of one for one sequence, lately
  bool pays = false;         // whether it guesses at present, or waits for that to be faster than not to
};

// What auditing the cache has found so far.
struct AuditReport {
  std::uint64_t checked = 0;
  std::uint64_t skipped = 0;     // for want of blocks, of room, or of what a sliding window sees
  std::uint64_t mismatched = 0;  // each put a namespace into quarantine: nothing of it is reused any more
  std::string last_mismatch;     // a sentence: which tokens, which layer
};

// What generate() reports while it works. Both run on the caller's thread. What they throw cancels the request and
// comes out of the call.
struct GenerateCallbacks {
  // New text, always whole UTF-8 characters. Returning false ends the reply with this text, and no
  // callback is called again.
  std::function<bool(std::string_view text)> on_text;
  // Prompt tokens done and in all (reused ones included); called after each prefill step.
  // Returning false cancels.
  std::function<bool(int done, int total)> on_prefill;
};

struct Reply {
  std::string text;
  std::vector<TokenId> prompt_ids;
  std::vector<TokenId> ids;      // the reply's, without an end-of-turn token
  std::vector<double> logprobs;  // of ids, natural logarithms, if asked for
  FinishReason finish_reason = FinishReason::stop;
  Usage usage;
  Reuse reuse;
  double ttft_ms = 0;
  double tokens_per_second = 0;  // of the reply, after its first token; 0 for one token
};

// A cached prefix that stays as long as this exists, whatever needs room. Move-only. Requires: the engine outlives it.
class Pin {
 public:
  Pin() = default;
  Pin(int tokens, std::function<void()> unpin) : tokens_(tokens), unpin_(std::move(unpin)) {}
  Pin(Pin&& other) noexcept : tokens_(std::exchange(other.tokens_, 0)), unpin_(std::exchange(other.unpin_, nullptr)) {}
  Pin& operator=(Pin&& other) noexcept {
    if (this != &other) {
      release();
      tokens_ = std::exchange(other.tokens_, 0);
      unpin_ = std::exchange(other.unpin_, nullptr);
    }
    return *this;
  }
  ~Pin() { release(); }
  void release() {
    tokens_ = 0;
    if (const auto unpin = std::exchange(unpin_, nullptr)) unpin();
  }
  [[nodiscard]] int tokens() const { return tokens_; }

 private:
  int tokens_ = 0;
  std::function<void()> unpin_;
};

// One model, one cache, one engine thread. Safe to use from several threads:
// requests queue, run together in steps, and get the bits they would get alone.
class Engine {
 public:
  // Errors: not_found, corrupt, unsupported (also a draft model with another vocabulary), exhausted (the budget cannot
  // hold the model), cancelled. Whatever the error, what was loaded until then has been freed.
  static Result<std::unique_ptr<Engine>> open(const EngineOptions& options, const std::stop_token& cancel = {});
  virtual ~Engine() = default;

  // Blocks until the reply is done. Errors: invalid_argument (empty prompt, ids outside the
  // vocabulary, prompt longer than the context), exhausted (can never fit the budget), numeric.
  virtual Result<Reply> generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                                 const GenerateCallbacks& callbacks = {}) = 0;

  // What generate() would reuse of this prompt at this moment, and why no more. Computes nothing.
  // Errors: invalid_argument, as generate().
  virtual Result<Explanation> explain(std::span<const TokenId> prompt, const std::string& salt = {}) = 0;

  // Keeps the whole blocks of 16 tokens of this prefix cached, and computes what is not cached yet. All pins together
  // may take half of the room for K/V, those of a salt its quota. Errors: as generate(), and invalid_argument (not one
  // whole block), exhausted (it does not fit beside what is pinned).
  virtual Result<Pin> pin(std::span<const TokenId> prefix, const std::string& salt = {}) = 0;

  [[nodiscard]] virtual const Tokenizer& tokenizer() const = 0;
  [[nodiscard]] virtual int context() const = 0;
  // Drops every cached block that no running request uses.
  virtual void reset_cache() = 0;
  virtual CacheReport cache_report() = 0;
  // Nothing without a draft model.
  virtual std::optional<DraftReport> draft_report() = 0;
  // Audits so many sampled blocks at once, beside those of EngineOptions::audit_share; 0: only reports.
  virtual AuditReport audit_cache(int blocks = 0) = 0;
};

}  // namespace dalsegno
