// Options: what the caller's struct says, over the defaults of the C++ interface.

#include "bindings/c/values.hpp"

#include <array>
#include <optional>
#include <string>

namespace dalsegno::c {
namespace {

Error out_of_range(const char* what, std::int32_t value) {
  return Error{ErrorCode::invalid_argument,
               std::string(what) + " " + std::to_string(value) + " is not one of the constants"};
}

// An enum of the C++ interface by its number, which dalsegno.h has the same.
template <class E>
Result<E> choice(std::int32_t value, E last, const char* what) {
  if (value < 0 || value > static_cast<std::int32_t>(last)) return out_of_range(what, value);
  return static_cast<E>(value);
}

Result<std::vector<std::string>> strings_of(const char* const* items, std::size_t count, const char* what) {
  DALSEGNO_ASSIGN(array, array_of(items, count, what));
  std::vector<std::string> all;
  for (const char* item : array) {
    if (item == nullptr) return Error{ErrorCode::invalid_argument, std::string(what) + " has a NULL in it"};
    all.emplace_back(item);
  }
  return all;
}

const GenerateOptions& default_options() {
  static const GenerateOptions options;
  return options;
}

}  // namespace

dalsegno_engine_options default_engine_options() {
  static const EngineOptions options;
  dalsegno_engine_options plain_ones{};
  plain_ones.kv = plain(options.kv);
  plain_ones.activation_bits = options.activation_bits;
  plain_ones.context = options.context;
  plain_ones.idle_bytes = -1;
  plain_ones.audit_share = options.audit_share;
  plain_ones.quota_bytes = options.quota_bytes;
  plain_ones.step_ms = options.step_ms;
  plain_ones.threads = options.threads;
  plain_ones.eviction = options.eviction.c_str();
  return plain_ones;
}

Result<EngineOptions> engine_options(const dalsegno_engine_options* given) {
  DALSEGNO_NEED(given);
  DALSEGNO_ASSIGN(options, sized(given, default_engine_options(), "dalsegno_engine_options"));
  DALSEGNO_NEED(options.model_path);
  EngineOptions all;
  all.model_path = options.model_path;
  DALSEGNO_ASSIGN(format, choice(options.kv.format, KvFormat::q4, "kv.format"));
  all.kv = {format, options.kv.group_size, options.kv.start, options.kv.max_size, options.kv.keep};
  all.activation_bits = options.activation_bits;
  all.context = options.context;
  DALSEGNO_ASSIGN(preset, choice(options.memory_preset, MemoryPreset::unconstrained, "memory_preset"));
  all.memory = {.preset = preset, .bytes = options.memory_bytes};
  if (options.idle_bytes < -1) {
    return Error{ErrorCode::invalid_argument,
                 "idle_bytes is " + std::to_string(options.idle_bytes) + ", expected -1 (by the preset) or more"};
  }
  if (options.idle_bytes >= 0) all.memory.idle_bytes = static_cast<std::uint64_t>(options.idle_bytes);
  all.audit_share = options.audit_share;
  DALSEGNO_ASSIGN(quotas, array_of(options.quotas, options.quota_count, "quotas"));
  for (const dalsegno_quota& quota : quotas) all.quotas[text_of(quota.salt)] = quota.bytes;
  all.quota_bytes = options.quota_bytes;
  all.step_ms = options.step_ms;
  all.threads = options.threads;
  if (options.eviction != nullptr) all.eviction = options.eviction;
  all.draft_model_path = text_of(options.draft_model_path);
  return all;
}

dalsegno_generate_options plain_options(const GenerateOptions& options, std::vector<const char*>& strings,
                                        std::vector<dalsegno_bias>& bias) {
  const SamplingOptions& sampling = options.sampling;
  strings.clear();
  bias.clear();
  for (const std::string& breaker : sampling.dry_breakers) strings.push_back(breaker.c_str());
  for (const std::string& stop : options.stop) strings.push_back(stop.c_str());
  if (options.constraint) {
    for (const std::string& choice : options.constraint->choices) strings.push_back(choice.c_str());
  }
  for (const auto& [id, value] : sampling.logit_bias) bias.push_back({id, value});
  dalsegno_generate_options all{};
  all.max_tokens = options.max_tokens;
  all.temperature = sampling.temperature;
  all.top_p = sampling.top_p;
  all.top_k = sampling.top_k;
  all.min_p = sampling.min_p;
  all.typical_p = sampling.typical_p;
  all.repeat_penalty = sampling.repeat_penalty;
  all.repeat_last = sampling.repeat_last;
  all.presence_penalty = sampling.presence_penalty;
  all.frequency_penalty = sampling.frequency_penalty;
  all.dry_multiplier = sampling.dry_multiplier;
  all.dry_base = sampling.dry_base;
  all.dry_allowed_length = sampling.dry_allowed_length;
  all.dry_last = sampling.dry_last;
  all.dry_breakers = strings.data();
  all.dry_breaker_count = sampling.dry_breakers.size();
  all.logit_bias = bias.data();
  all.logit_bias_count = bias.size();
  all.seed = sampling.seed;
  all.stream = sampling.stream;
  all.stop = strings.data() + sampling.dry_breakers.size();
  all.stop_count = options.stop.size();
  all.logprobs = options.logprobs ? 1 : 0;
  all.reuse = options.reuse ? 1 : 0;
  all.salt = options.salt.c_str();
  all.priority = options.retention.priority;
  all.ttl_seconds = options.retention.ttl_seconds;
  all.urgency = options.scheduling.urgency;
  all.deadline_seconds = options.scheduling.deadline_seconds;
  all.chunk = options.chunk;
  all.speculation = static_cast<std::int32_t>(options.speculation);
  if (options.tool_choice) {
    all.tool_choice = 1 + static_cast<std::int32_t>(options.tool_choice->kind);
    all.tool_choice_name = options.tool_choice->name.c_str();
  }
  if (options.constraint) {
    const Constraint& constraint = *options.constraint;
    all.constraint = 1 + static_cast<std::int32_t>(constraint.kind);
    all.constraint_text = constraint.text.c_str();
    all.choices = strings.data() + sampling.dry_breakers.size() + options.stop.size();
    all.choice_count = constraint.choices.size();
    all.constraint_continues = constraint.continues;
  }
  return all;
}

dalsegno_generate_options default_generate_options() {
  static std::vector<const char*> strings;
  static std::vector<dalsegno_bias> bias;
  static const dalsegno_generate_options plain_ones = plain_options(default_options(), strings, bias);
  return plain_ones;
}

Result<SamplingOptions> sampling_of(const dalsegno_generate_options& options) {
  SamplingOptions all;
  all.temperature = options.temperature;
  all.top_p = options.top_p;
  all.top_k = options.top_k;
  all.min_p = options.min_p;
  all.typical_p = options.typical_p;
  all.repeat_penalty = options.repeat_penalty;
  all.repeat_last = options.repeat_last;
  all.presence_penalty = options.presence_penalty;
  all.frequency_penalty = options.frequency_penalty;
  all.dry_multiplier = options.dry_multiplier;
  all.dry_base = options.dry_base;
  all.dry_allowed_length = options.dry_allowed_length;
  all.dry_last = options.dry_last;
  DALSEGNO_ASSIGN(breakers, strings_of(options.dry_breakers, options.dry_breaker_count, "dry_breakers"));
  all.dry_breakers = std::move(breakers);
  DALSEGNO_ASSIGN(bias, array_of(options.logit_bias, options.logit_bias_count, "logit_bias"));
  for (const dalsegno_bias& one : bias) all.logit_bias.emplace_back(one.id, one.bias);
  all.seed = options.seed;
  all.stream = options.stream;
  return all;
}

Result<std::optional<Constraint>> constraint_of(const dalsegno_generate_options& options) {
  if (options.constraint == DALSEGNO_CONSTRAINT_NONE) return std::optional<Constraint>();
  if (options.constraint < 0 || options.constraint > DALSEGNO_CONSTRAINT_TOOL_CALLS) {
    return out_of_range("constraint", options.constraint);
  }
  DALSEGNO_ASSIGN(choices, strings_of(options.choices, options.choice_count, "choices"));
  if (options.constraint != DALSEGNO_CONSTRAINT_CHOICES) DALSEGNO_NEED(options.constraint_text);
  Constraint all{static_cast<Constraint::Kind>(options.constraint - 1), text_of(options.constraint_text),
                 std::move(choices)};
  all.continues = options.constraint_continues;
  return std::optional<Constraint>(std::move(all));
}

Result<std::optional<ToolChoice>> tool_choice_of(std::int32_t kind, const char* name) {
  if (kind == DALSEGNO_TOOL_CHOICE_DEFAULT) return std::optional<ToolChoice>();
  if (kind < 0 || kind > DALSEGNO_TOOL_CHOICE_NAMED) return out_of_range("tool_choice", kind);
  return std::optional(ToolChoice{static_cast<ToolChoice::Kind>(kind - 1), text_of(name)});
}

Result<Asked> asked(const dalsegno_generate_options* given) {
  DALSEGNO_ASSIGN(options, sized(given, default_generate_options(), "dalsegno_generate_options"));
  Asked all;
  all.options.max_tokens = options.max_tokens;
  DALSEGNO_ASSIGN(sampling, sampling_of(options));
  all.options.sampling = std::move(sampling);
  DALSEGNO_ASSIGN(stop, strings_of(options.stop, options.stop_count, "stop"));
  all.options.stop = std::move(stop);
  DALSEGNO_ASSIGN(constraint, constraint_of(options));
  all.options.constraint = std::move(constraint);
  DALSEGNO_ASSIGN(tool_choice, tool_choice_of(options.tool_choice, options.tool_choice_name));
  all.options.tool_choice = std::move(tool_choice);
  all.options.logprobs = options.logprobs != 0;
  all.options.reuse = options.reuse != 0;
  all.options.salt = text_of(options.salt);
  all.options.retention = {.priority = options.priority, .ttl_seconds = options.ttl_seconds};
  all.options.scheduling = {.urgency = options.urgency, .deadline_seconds = options.deadline_seconds};
  all.options.chunk = options.chunk;
  if (options.speculation < 0 || options.speculation > DALSEGNO_SPECULATION_OFF) {
    return out_of_range("speculation", options.speculation);
  }
  all.options.speculation = static_cast<Speculation>(options.speculation);
  void* const user = options.user;
  if (const auto process = options.logits_processor) {
    all.options.logits_processor = [process, user](std::span<const TokenId> tokens, std::span<float> logits) {
      process(user, tokens.data(), tokens.size(), logits.data(), logits.size());
    };
  }
  if (const auto on_text = options.on_text) {
    all.callbacks.on_text = [on_text, user](std::string_view text) {
      const std::string ended(text);  // by a zero byte
      return on_text(user, ended.c_str(), ended.size()) != 0;
    };
  }
  if (const auto on_prefill = options.on_prefill) {
    all.callbacks.on_prefill = [on_prefill, user](int done, int total) { return on_prefill(user, done, total) != 0; };
  }
  return all;
}

Result<std::vector<Message>> messages_of(const dalsegno_message* messages, std::size_t count) {
  DALSEGNO_ASSIGN(array, array_of(messages, count, "messages"));
  std::vector<Message> all;
  for (const dalsegno_message& message : array) {
    DALSEGNO_NEED(message.role);
    DALSEGNO_NEED(message.content);
    all.push_back({message.role, message.content, text_of(message.name)});
  }
  return all;
}

dalsegno_session_options default_session_options() {
  dalsegno_session_options all{};
  all.strict = 1;
  return all;
}

Result<SessionOptions> session_options(const dalsegno_session_options* given) {
  DALSEGNO_ASSIGN(options, sized(given, default_session_options(), "dalsegno_session_options"));
  SessionOptions all;
  all.instructions = text_of(options.instructions);
  DALSEGNO_ASSIGN(tools, tools_of(options.tools, options.tool_count));
  all.tools = std::move(tools);
  DALSEGNO_ASSIGN(style, choice(options.call_style, ToolCallStyle::json, "call_style"));
  all.call_style = style;
  DALSEGNO_ASSIGN(messages, messages_of(options.messages, options.message_count));
  all.messages = std::move(messages);
  all.pin = options.pin != 0;
  DALSEGNO_ASSIGN(tool_choice, tool_choice_of(options.tool_choice, options.tool_choice_name));
  all.tool_choice = std::move(tool_choice).value_or(ToolChoice());
  all.strict = options.strict != 0;
  return all;
}

}  // namespace dalsegno::c

void dalsegno_engine_options_init(dalsegno_engine_options* options, std::size_t size) {
  dalsegno::c::initialise(options, size, dalsegno::c::default_engine_options());
}

void dalsegno_generate_options_init(dalsegno_generate_options* options, std::size_t size) {
  dalsegno::c::initialise(options, size, dalsegno::c::default_generate_options());
}

void dalsegno_session_options_init(dalsegno_session_options* options, std::size_t size) {
  dalsegno::c::initialise(options, size, dalsegno::c::default_session_options());
}
