// Results: what the C++ interface gave, in structs that C can read.

#include "bindings/c/values.hpp"

#include "dalsegno/conversations.hpp"

namespace dalsegno::c {
namespace {

// The numbers of dalsegno.h are a promise; the order of these enums is none.
template <class E>
constexpr bool same(std::int32_t number, E value) {
  return number == static_cast<std::int32_t>(value);
}
static_assert(same(DALSEGNO_KV_BF16, KvFormat::bf16) && same(DALSEGNO_KV_F32, KvFormat::f32) &&
              same(DALSEGNO_KV_Q8, KvFormat::q8) && same(DALSEGNO_KV_Q4, KvFormat::q4));
static_assert(same(DALSEGNO_MEMORY_AUTOMATIC, MemoryPreset::automatic) &&
              same(DALSEGNO_MEMORY_IDLE, MemoryPreset::idle) &&
              same(DALSEGNO_MEMORY_UNCONSTRAINED, MemoryPreset::unconstrained));
static_assert(same(DALSEGNO_STOPPED_END, Stopped::end) && same(DALSEGNO_STOPPED_COLD, Stopped::cold) &&
              same(DALSEGNO_STOPPED_DIVERGED, Stopped::diverged) && same(DALSEGNO_STOPPED_EVICTED, Stopped::evicted) &&
              same(DALSEGNO_STOPPED_WINDOW, Stopped::window) && same(DALSEGNO_STOPPED_NAMESPACE, Stopped::name_space) &&
              same(DALSEGNO_STOPPED_OFF, Stopped::off));
static_assert(same(DALSEGNO_FINISH_STOP, FinishReason::stop) && same(DALSEGNO_FINISH_LENGTH, FinishReason::length) &&
              same(DALSEGNO_FINISH_CANCELLED, FinishReason::cancelled) &&
              same(DALSEGNO_FINISH_DEADLINE, FinishReason::deadline) &&
              same(DALSEGNO_FINISH_ERROR, FinishReason::error) &&
              same(DALSEGNO_FINISH_DEAD_END, FinishReason::dead_end));
static_assert(same(DALSEGNO_CONSTRAINT_JSON_SCHEMA - 1, Constraint::Kind::json_schema) &&
              same(DALSEGNO_CONSTRAINT_REGEX - 1, Constraint::Kind::regex) &&
              same(DALSEGNO_CONSTRAINT_LARK - 1, Constraint::Kind::lark) &&
              same(DALSEGNO_CONSTRAINT_CHOICES - 1, Constraint::Kind::choices) &&
              same(DALSEGNO_CONSTRAINT_TOOL_CALLS - 1, Constraint::Kind::tool_calls));
static_assert(same(DALSEGNO_TOOL_CHOICE_AUTOMATIC - 1, ToolChoice::Kind::automatic) &&
              same(DALSEGNO_TOOL_CHOICE_REQUIRED - 1, ToolChoice::Kind::required) &&
              same(DALSEGNO_TOOL_CHOICE_NONE - 1, ToolChoice::Kind::none) &&
              same(DALSEGNO_TOOL_CHOICE_NAMED - 1, ToolChoice::Kind::named));
static_assert(same(DALSEGNO_SPECULATION_AUTOMATIC, Speculation::automatic) &&
              same(DALSEGNO_SPECULATION_OFF, Speculation::off));
static_assert(same(DALSEGNO_TOOLS_ANSWERED, ToolsEnded::answered) && same(DALSEGNO_TOOLS_ROUNDS, ToolsEnded::rounds) &&
              same(DALSEGNO_TOOLS_REPEATED, ToolsEnded::repeated) &&
              same(DALSEGNO_TOOLS_UNFINISHED, ToolsEnded::unfinished));
static_assert(same(DALSEGNO_STYLE_AUTOMATIC, ToolCallStyle::automatic) &&
              same(DALSEGNO_STYLE_HERMES, ToolCallStyle::hermes) &&
              same(DALSEGNO_STYLE_LLAMA3, ToolCallStyle::llama3) && same(DALSEGNO_STYLE_JSON, ToolCallStyle::json));
static_assert(same(DALSEGNO_FROM_CREATED, ConversationFrom::created) &&
              same(DALSEGNO_FROM_MEMORY, ConversationFrom::memory) && same(DALSEGNO_FROM_DISK, ConversationFrom::disk));

}  // namespace

dalsegno_kv plain(const KvOptions& kv) {
  return {static_cast<std::int32_t>(kv.format), kv.group_size, kv.start, kv.max_size, kv.keep};
}

dalsegno_usage plain(const Usage& usage) {
  return {usage.prompt_tokens, usage.reused_tokens, usage.prefilled_tokens, usage.reply_tokens};
}

dalsegno_reuse plain(const Reuse& reuse) {
  return {reuse.tier, static_cast<std::int32_t>(reuse.stopped), reuse.at, reuse.resumed, reuse.saved_ms};
}

dalsegno_explanation plain(const Explanation& explanation) {
  return {explanation.prompt_tokens, explanation.reused_tokens, plain(explanation.reuse), explanation.ttft_ms};
}

namespace {

using HeldText = Holding<dalsegno_text, std::string>;
using HeldTokens = Holding<dalsegno_tokens, std::vector<TokenId>>;
using HeldReply = Holding<dalsegno_reply, Reply>;

}  // namespace

dalsegno_text* new_text(std::string text) {
  auto held = std::make_unique<HeldText>(HeldText{{}, std::move(text)});
  held->data = held->owned.c_str();
  held->size = held->owned.size();
  return held.release();
}

dalsegno_tokens* new_tokens(std::vector<TokenId> ids) {
  auto held = std::make_unique<HeldTokens>(HeldTokens{{}, std::move(ids)});
  held->ids = held->owned.data();
  held->count = held->owned.size();
  return held.release();
}

dalsegno_reply* new_reply(Reply reply) {
  auto held = std::make_unique<HeldReply>(HeldReply{{}, std::move(reply)});
  const Reply& owned = held->owned;
  held->text = owned.text.c_str();
  held->text_size = owned.text.size();
  held->ids = owned.ids.data();
  held->id_count = owned.ids.size();
  held->logprobs = owned.logprobs.empty() ? nullptr : owned.logprobs.data();
  held->prompt_ids = owned.prompt_ids.data();
  held->prompt_id_count = owned.prompt_ids.size();
  held->finish = static_cast<std::int32_t>(owned.finish_reason);
  held->usage = plain(owned.usage);
  held->reuse = plain(owned.reuse);
  held->ttft_ms = owned.ttft_ms;
  held->tokens_per_second = owned.tokens_per_second;
  held->proposed_tokens = owned.usage.proposed_tokens;
  held->accepted_tokens = owned.usage.accepted_tokens;
  return held.release();
}

}  // namespace dalsegno::c

void dalsegno_text_free(dalsegno_text* text) {
  delete static_cast<dalsegno::c::HeldText*>(text);
}

void dalsegno_tokens_free(dalsegno_tokens* tokens) {
  delete static_cast<dalsegno::c::HeldTokens*>(tokens);
}

void dalsegno_reply_free(dalsegno_reply* reply) {
  delete static_cast<dalsegno::c::HeldReply*>(reply);
}
