#include "cli/reply_report.hpp"

#include <fmt/format.h>

#include "cli/terminal.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

const char* plural(int count) {
  return count == 1 ? "" : "s";
}

// How the reply ended, where that is worth a word.
const char* ending(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "";
    case FinishReason::length:
      return ", length limit";
    case FinishReason::cancelled:
      return ", interrupted";
    case FinishReason::deadline:
      return ", deadline passed";
    case FinishReason::error:
      return ", failed";
    case FinishReason::dead_end:
      return ", dead end";
  }
  return "";
}

}  // namespace

json::object usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},       {"reused_tokens", usage.reused_tokens},
          {"prefilled_tokens", usage.prefilled_tokens}, {"reply_tokens", usage.reply_tokens},
          {"proposed_tokens", usage.proposed_tokens},   {"accepted_tokens", usage.accepted_tokens}};
}

json::object reuse_json(const Reuse& reuse) {
  return {{"tier", reuse.tier},
          {"stopped", name(reuse.stopped)},
          {"at", reuse.at},
          {"resumed", reuse.resumed},
          {"saved_ms", reuse.saved_ms}};
}

json::object reply_json(const Reply& reply, int turn, bool show_ids) {
  json::object result{{"turn", turn},
                      {"text", reply.text},
                      {"finish_reason", name(reply.finish_reason)},
                      {"usage", usage_json(reply.usage)},
                      {"reuse", reuse_json(reply.reuse)},
                      {"ttft_ms", reply.ttft_ms},
                      {"tokens_per_second", reply.tokens_per_second}};
  if (show_ids) {
    result["prompt_ids"] = json::array(reply.prompt_ids.begin(), reply.prompt_ids.end());
    result["reply_ids"] = json::array(reply.ids.begin(), reply.ids.end());
  }
  return result;
}

std::string reuse_words(const Usage& usage, const Reuse& reuse) {
  const std::string from = usage.reused_tokens > 0 ? fmt::format(" ({})", reuse.tier) : "";
  const std::string resumed = reuse.resumed < reuse.at ? fmt::format(", resumed at {}", reuse.resumed) : "";
  return fmt::format("{} token{} in: {} reused{}, {} prefilled, stopped: {} at {}{}", usage.prompt_tokens,
                     plural(usage.prompt_tokens), usage.reused_tokens, from, usage.prefilled_tokens,
                     name(reuse.stopped), reuse.at, resumed);
}

void DamageWarning::check(Engine& engine) {
  if (given_) return;
  const AuditReport report = engine.audit_cache();
  if (report.mismatched == 0) return;
  given_ = true;
  note(
      fmt::format("warning: the cache is damaged: {}; nothing of it is reused any more. This machine's memory may be "
                  "failing; test it, or report this\n",
                  report.last_mismatch));
}

std::string reply_line(const Reply& reply) {
  const Usage& usage = reply.usage;
  const int out = usage.reply_tokens;
  const std::string rate = reply.tokens_per_second > 0 ? fmt::format(", {:.0f} tok/s", reply.tokens_per_second) : "";
  const std::string guessed =
      usage.proposed_tokens > 0 ? fmt::format(", {} of {} guesses right", usage.accepted_tokens, usage.proposed_tokens)
                                : "";
  const std::string first = reply.ttft_ms > 0 ? fmt::format(" | first token {:.0f} ms", reply.ttft_ms) : "";
  return fmt::format("[{}{} | {} token{}{}{}{}]", reuse_words(usage, reply.reuse), first, out, plural(out), rate,
                     guessed, ending(reply.finish_reason));
}

}  // namespace dalsegno::cli
