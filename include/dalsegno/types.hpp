#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dalsegno/constraint.hpp"

namespace dalsegno {

using TokenId = std::int32_t;

// How keys and values are stored: as values, or as codes of 8 or 4 bits. Part of the numerics key: it changes bits.
enum class KvFormat : std::uint8_t { bf16, f32, q8, q4 };

struct KvOptions {
  KvFormat format = KvFormat::bf16;
  int group_size = 64;  // of 8 and 4 bits: how many values of a token's head share a scale; 32, 64 or 128
  int start = 0;        // of 8 and 4 bits: tokens before are kept as bf16; rounded up to a whole block of 16 tokens
  // A token attends to the first `keep` tokens and to the last max_size - keep, itself included. 0: to all.
  int max_size = 0;
  int keep = 0;
  auto operator<=>(const KvOptions&) const = default;
};

// Why reuse ended at a token.
enum class Stopped : std::uint8_t {
  end,         // all of it was cached
  cold,        // the index holds nothing beyond this point
  diverged,    // the index holds other tokens here
  evicted,     // it was held once and given up for room
  window,      // a sliding window no longer holds what is needed
  name_space,  // cached under another key (shown as "namespace")
  off,         // the request did not want reuse
};
inline constexpr std::size_t kStoppedCount = 7;

enum class FinishReason : std::uint8_t {
  stop,  // at an end-of-turn token, a stop text, or where a constraint allows nothing more
  length,
  cancelled,
  deadline,
  error,
  dead_end,  // the constraint's text is not whole, but no token that it allows can be drawn
};

// Whether the next tokens of a reply are guessed, and those that prove right taken without a step of their own.
// automatic: where, by what was guessed lately and what steps take, that is faster.
enum class Speculation : std::uint8_t { automatic, off };

// The words used in JSON and reports.
[[nodiscard]] const char* name(KvFormat format);
[[nodiscard]] const char* name(Stopped stopped);
[[nodiscard]] const char* name(FinishReason reason);
[[nodiscard]] const char* name(Speculation speculation);

// In tokens. reused + prefilled = prompt, less what a cancelled prefill left undone.
// reply_tokens excludes an end-of-turn token.
struct Usage {
  int prompt_tokens = 0;
  int reused_tokens = 0;
  int prefilled_tokens = 0;
  int reply_tokens = 0;
  // Of speculation: tokens that were guessed and computed beside others, and those of them that proved right.
  int proposed_tokens = 0;
  int accepted_tokens = 0;
};

// From which tier tokens were reused ("ram", or "none" if none were), and why no more.
struct Reuse {
  const char* tier = "none";
  Stopped stopped = Stopped::cold;
  int at = 0;           // the first token that was not cached
  int resumed = 0;      // where prefill began: before `at` where a sliding window lacked what comes before it
  double saved_ms = 0;  // what the reused tokens would have taken, by the engine's recent steps; 0: no such step yet
};

// What a prompt would reuse now, without running it.
struct Explanation {
  int prompt_tokens = 0;
  int reused_tokens = 0;
  Reuse reuse;
  double ttft_ms = 0;  // predicted from recent steps, if nothing else runs; 0: no such step yet
};

// They act in this order, after logits processor and constraint: logit_bias, repeat_penalty, presence and frequency,
// DRY, temperature, top_k, typical_p, top_p, min_p, the draw. temperature 0 is greedy; ties go to the lowest id. Draws
// are keyed by (seed, stream, position), so they do not depend on what else runs.
struct SamplingOptions {
  float temperature = 0.0F;
  float top_p = 1.0F;
  int top_k = 0;  // 0: no limit
  float min_p = 0.0F;
  float typical_p = 1.0F;          // the tokens of this share whose surprise is nearest to the entropy
  float repeat_penalty = 1.0F;     // divides positive logits of recent tokens, multiplies negative ones
  int repeat_last = 64;            // tokens looked back at by repeat_penalty, the prompt's included
  float presence_penalty = 0.0F;   // taken once from the logit of every token of the reply
  float frequency_penalty = 0.0F;  // taken from it for every time the token occurs there
  // DRY: takes multiplier * base ^ (run - allowed_length) from a token that would continue a run of that many
  // tokens as it was continued before. Runs end at tokens whose text holds one of the breakers.
  float dry_multiplier = 0.0F;  // 0: off
  float dry_base = 1.75F;
  int dry_allowed_length = 2;
  int dry_last = 4096;  // tokens looked back at, the prompt's included
  std::vector<std::string> dry_breakers{"\n", ":", "\"", "*"};
  std::vector<std::pair<TokenId, float>> logit_bias{};  // added to logits; -infinity forbids a token
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
};

// Changes the logits [vocabulary] of the token after `tokens` before anything is drawn from them. Must leave finite
// values (use the least float to forbid a token). Runs on the engine's thread, so it must not call the engine, and
// every request waits for it.
using LogitsProcessor = std::function<void(std::span<const TokenId> tokens, std::span<float> logits)>;

// What becomes of the cached blocks that a request used. Of what several requests want for a block, the highest
// priority and the latest expiry count.
struct Retention {
  int priority = 0;        // -100 to 100: lower ones make room first, whatever the policy would choose
  double ttl_seconds = 0;  // forgotten when no request has used it for so long; 0: stays as long as there is room
};
inline constexpr int kMostPriority = 100;

// When a request gets its turn; what it gets depends on none of this. Among equally urgent requests the tenants (salts)
// get equal shares, and of a tenant's the nearest deadline comes first.
struct Scheduling {
  // -100 to 100. The more urgent go first, and less urgent ones give their room up to them. Not Retention::priority,
  // which is about what stays cached.
  int urgency = 0;
  // From submission on. Then the request ends as far as it has come, maybe with no token (FinishReason::deadline).
  // 0: none; it waits its turn as if it had a minute.
  double deadline_seconds = 0;
};
inline constexpr int kMostUrgency = 100;

struct GenerateOptions {
  // affects behaviour
  int max_tokens = 512;
  SamplingOptions sampling{};
  std::vector<std::string> stop{};  // the reply ends before the first of these texts
  LogitsProcessor logits_processor{};
  // What the text must look like. Tokens it does not allow get the least float after the logits processor and before
  // SamplingOptions, none of which can bring them back. The reply ends with `stop` where nothing more is allowed.
  std::optional<Constraint> constraint{};
  // Of this turn, in sessions with tools alone; none: the session's. Not beside a constraint, which is about the whole
  // reply.
  std::optional<ToolChoice> tool_choice{};
  // Of the reply's tokens, by the logits as they are drawn from, before SamplingOptions: of what the constraint allows,
  // so that a token which it forces has 0.
  bool logprobs = false;
  bool reuse = true;      // false: neither read from nor added to the cache
  std::string salt{};     // requests of different salts share nothing and do not wait for each other
  Retention retention{};  // of prompt and reply
  Scheduling scheduling{};
  // affects performance
  int chunk = 512;  // most prompt tokens per step
  Speculation speculation = Speculation::automatic;
};

}  // namespace dalsegno
