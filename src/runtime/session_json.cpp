#include "runtime/session_json.hpp"

#include <algorithm>
#include <bit>
#include <boost/json.hpp>
#include <exception>
#include <utility>

namespace dalsegno {
namespace {

namespace json = boost::json;

constexpr int kVersion = 1;

std::uint32_t bits(float value) {
  return std::bit_cast<std::uint32_t>(value);
}
float from_bits(const json::value& value) {
  return std::bit_cast<float>(value.to_number<std::uint32_t>());
}

json::value messages_to_json(const std::vector<Message>& messages) {
  json::array array;
  for (const Message& message : messages) array.push_back({message.role, message.content, message.name});
  return array;
}

std::string text_of(const json::value& value) {
  return std::string(value.as_string());
}

std::vector<Message> messages_from_json(const json::value& value) {
  std::vector<Message> messages;
  for (const json::value& each : value.as_array()) {
    const json::array& parts = each.as_array();
    messages.push_back({text_of(parts.at(0)), text_of(parts.at(1)), text_of(parts.at(2))});
  }
  return messages;
}

json::value report_to_json(const ReplyReport& report) {
  const Usage& usage = report.usage;
  const Reuse& reuse = report.reuse;
  return {{"turn", report.turn},
          {"message", report.message},
          {"usage",
           {usage.prompt_tokens, usage.reused_tokens, usage.prefilled_tokens, usage.reply_tokens, usage.proposed_tokens,
            usage.accepted_tokens}},
          {"tier", reuse.tier},
          {"stopped", static_cast<int>(reuse.stopped)},
          {"at", {reuse.at, reuse.resumed}},
          {"saved_ms", reuse.saved_ms},
          {"ttft_ms", report.ttft_ms},
          {"tokens_per_second", report.tokens_per_second}};
}

ReplyReport report_from_json(const json::value& value) {
  const json::object& object = value.as_object();
  const json::array& usage = object.at("usage").as_array();
  const json::array& at = object.at("at").as_array();
  const auto count = [](const json::value& number) { return number.to_number<int>(); };
  ReplyReport report;
  report.turn = count(object.at("turn"));
  report.message = object.at("message").to_number<std::size_t>();
  report.usage = {count(usage.at(0)), count(usage.at(1)), count(usage.at(2)), count(usage.at(3))};
  if (usage.size() > 4) {
    report.usage.proposed_tokens = count(usage.at(4));
    report.usage.accepted_tokens = count(usage.at(5));
  }
  report.reuse.tier = object.at("tier").as_string() == "ram" ? "ram" : "none";
  report.reuse.stopped =
      static_cast<Stopped>(std::clamp(count(object.at("stopped")), 0, static_cast<int>(Stopped::off)));
  report.reuse.at = count(at.at(0));
  report.reuse.resumed = count(at.at(1));
  report.reuse.saved_ms = object.at("saved_ms").to_number<double>();
  report.ttft_ms = object.at("ttft_ms").to_number<double>();
  report.tokens_per_second = object.at("tokens_per_second").to_number<double>();
  return report;
}

json::value texts_to_json(const std::vector<std::string>& texts) {
  return json::array(texts.begin(), texts.end());
}

std::vector<std::string> texts_from_json(const json::value& value) {
  std::vector<std::string> texts;
  for (const json::value& text : value.as_array()) texts.push_back(text_of(text));
  return texts;
}

json::value sampling_to_json(const SamplingOptions& options) {
  json::array biases;
  for (const auto& [token, bias] : options.logit_bias) biases.push_back({token, bits(bias)});
  return {{"temperature", bits(options.temperature)},
          {"top_p", bits(options.top_p)},
          {"top_k", options.top_k},
          {"min_p", bits(options.min_p)},
          {"typical_p", bits(options.typical_p)},
          {"repeat_penalty", bits(options.repeat_penalty)},
          {"repeat_last", options.repeat_last},
          {"presence_penalty", bits(options.presence_penalty)},
          {"frequency_penalty", bits(options.frequency_penalty)},
          {"dry_multiplier", bits(options.dry_multiplier)},
          {"dry_base", bits(options.dry_base)},
          {"dry_allowed_length", options.dry_allowed_length},
          {"dry_last", options.dry_last},
          {"dry_breakers", texts_to_json(options.dry_breakers)},
          {"logit_bias", std::move(biases)},
          {"seed", options.seed},
          {"stream", options.stream}};
}

SamplingOptions sampling_from_json(const json::object& object) {
  SamplingOptions options;
  options.temperature = from_bits(object.at("temperature"));
  options.top_p = from_bits(object.at("top_p"));
  options.top_k = object.at("top_k").to_number<int>();
  options.min_p = from_bits(object.at("min_p"));
  options.typical_p = from_bits(object.at("typical_p"));
  options.repeat_penalty = from_bits(object.at("repeat_penalty"));
  options.repeat_last = object.at("repeat_last").to_number<int>();
  options.presence_penalty = from_bits(object.at("presence_penalty"));
  options.frequency_penalty = from_bits(object.at("frequency_penalty"));
  options.dry_multiplier = from_bits(object.at("dry_multiplier"));
  options.dry_base = from_bits(object.at("dry_base"));
  options.dry_allowed_length = object.at("dry_allowed_length").to_number<int>();
  options.dry_last = object.at("dry_last").to_number<int>();
  options.dry_breakers = texts_from_json(object.at("dry_breakers"));
  for (const json::value& each : object.at("logit_bias").as_array()) {
    options.logit_bias.emplace_back(each.as_array().at(0).to_number<TokenId>(), from_bits(each.as_array().at(1)));
  }
  options.seed = object.at("seed").to_number<std::uint64_t>();
  options.stream = object.at("stream").to_number<std::uint64_t>();
  return options;
}

json::value constraint_to_json(const std::optional<Constraint>& constraint) {
  if (!constraint) return nullptr;
  return {{"kind", static_cast<int>(constraint->kind)},
          {"text", constraint->text},
          {"choices", texts_to_json(constraint->choices)},
          {"continues", constraint->continues}};
}

std::optional<Constraint> constraint_from_json(const json::object& options) {
  const json::value* value = options.if_contains("constraint");
  if (value == nullptr || value->is_null()) return std::nullopt;
  const json::object& object = value->as_object();
  const int kind = object.at("kind").to_number<int>();
  Constraint constraint;
  constraint.kind = static_cast<Constraint::Kind>(std::clamp(kind, 0, static_cast<int>(Constraint::Kind::tool_calls)));
  constraint.text = text_of(object.at("text"));
  constraint.choices = texts_from_json(object.at("choices"));
  constraint.continues = object.at("continues").to_number<int>();
  return constraint;
}

json::value choice_to_json(const ToolChoice& choice) {
  return {static_cast<int>(choice.kind), choice.name};
}

ToolChoice choice_from_json(const json::value& value) {
  const json::array& parts = value.as_array();
  const int kind = std::clamp(parts.at(0).to_number<int>(), 0, static_cast<int>(ToolChoice::Kind::named));
  return {static_cast<ToolChoice::Kind>(kind), text_of(parts.at(1))};
}

json::value options_to_json(const GenerateOptions& options) {
  return {{"max_tokens", options.max_tokens},
          {"sampling", sampling_to_json(options.sampling)},
          {"stop", texts_to_json(options.stop)},
          {"constraint", constraint_to_json(options.constraint)},
          {"tool_choice", options.tool_choice ? choice_to_json(*options.tool_choice) : nullptr},
          {"logprobs", options.logprobs},
          {"reuse", options.reuse},
          {"priority", options.retention.priority},
          {"ttl_seconds", options.retention.ttl_seconds},
          {"urgency", options.scheduling.urgency},
          {"deadline_seconds", options.scheduling.deadline_seconds},
          {"chunk", options.chunk},
          {"speculation", static_cast<int>(options.speculation)}};
}

GenerateOptions options_from_json(const json::object& object) {
  GenerateOptions options;
  options.max_tokens = object.at("max_tokens").to_number<int>();
  options.sampling = sampling_from_json(object.at("sampling").as_object());
  options.stop = texts_from_json(object.at("stop"));
  options.constraint = constraint_from_json(object);
  if (const json::value* choice = object.if_contains("tool_choice"); choice != nullptr && !choice->is_null()) {
    options.tool_choice = choice_from_json(*choice);
  }
  options.logprobs = object.at("logprobs").as_bool();
  options.reuse = object.at("reuse").as_bool();
  options.retention.priority = object.at("priority").to_number<int>();
  options.retention.ttl_seconds = object.at("ttl_seconds").to_number<double>();
  options.scheduling.urgency = object.at("urgency").to_number<int>();
  options.scheduling.deadline_seconds = object.at("deadline_seconds").to_number<double>();
  options.chunk = object.at("chunk").to_number<int>();
  if (const json::value* speculation = object.if_contains("speculation"); speculation != nullptr) {
    options.speculation = speculation->to_number<int>() == 0 ? Speculation::automatic : Speculation::off;
  }
  return options;
}

std::vector<Tool> tools_from_json(const std::string& text) {
  std::vector<Tool> tools;
  const json::value definitions = json::parse(text);
  for (const json::value& each : definitions.as_array()) {
    const json::object& function = each.as_object().at("function").as_object();
    Tool tool;
    tool.name = text_of(function.at("name"));
    tool.description = text_of(function.at("description"));
    tool.parameters_json = json::serialize(function.at("parameters"));
    tools.push_back(std::move(tool));
  }
  return tools;
}

SessionFromJson read(const json::object& object, int vocabulary) {
  SessionFromJson read;
  Session::Impl::State& state = read.state;
  state.messages = messages_from_json(object.at("messages"));
  for (const json::value& report : object.at("reports").as_array()) state.reports.push_back(report_from_json(report));
  state.tools_json = text_of(object.at("tools"));
  if (!state.tools_json.empty()) {
    state.tools = std::make_shared<const std::vector<Tool>>(tools_from_json(state.tools_json));
  }
  const int style = object.at("call_style").to_number<int>();
  state.call_style = static_cast<ToolCallStyle>(std::clamp(style, 0, static_cast<int>(ToolCallStyle::json)));
  // Before calls could be enforced none were.
  const json::value* choice = object.if_contains("tool_choice");
  state.strict = choice != nullptr && object.at("strict").as_bool();
  if (choice != nullptr) state.tool_choice = choice_from_json(*choice);
  state.stream = object.at("stream").to_number<std::uint64_t>();
  read.forks = object.at("forks").to_number<std::uint64_t>();
  for (const std::string& tag : texts_from_json(object.at("tags"))) state.tags.insert(tag);
  state.pin = object.at("pin").as_bool();
  state.options = options_from_json(object.at("options").as_object());
  std::vector<PromptMemory::Saved> branches;
  for (const json::value& each : object.at("prompts").as_array()) {
    const json::object& branch = each.as_object();
    PromptMemory::Saved saved;
    saved.text = text_of(branch.at("text"));
    saved.ids = json::value_to<std::vector<TokenId>>(branch.at("ids"));
    saved.anchors = json::value_to<std::vector<std::size_t>>(branch.at("anchors"));
    branches.push_back(std::move(saved));
  }
  state.prompts = PromptMemory::restore(branches, vocabulary);
  return read;
}

}  // namespace

std::string session_to_json(const Session::Impl::State& state, std::uint64_t forks) {
  json::array reports;
  for (const ReplyReport& report : state.reports) reports.push_back(report_to_json(report));
  json::array prompts;
  for (const PromptMemory::Saved& branch : state.prompts.save()) {
    prompts.push_back(
        {{"text", branch.text}, {"ids", json::value_from(branch.ids)}, {"anchors", json::value_from(branch.anchors)}});
  }
  json::array tags(state.tags.begin(), state.tags.end());
  const json::object object{{"session_version", kVersion},
                            {"messages", messages_to_json(state.messages)},
                            {"reports", std::move(reports)},
                            {"tools", state.tools_json},
                            {"call_style", static_cast<int>(state.call_style)},
                            {"tool_choice", choice_to_json(state.tool_choice)},
                            {"strict", state.strict},
                            {"stream", state.stream},
                            {"forks", forks},
                            {"tags", std::move(tags)},
                            {"pin", state.pin},
                            {"options", options_to_json(state.options)},
                            {"prompts", std::move(prompts)}};
  return json::serialize(object);
}

Result<SessionFromJson> session_from_json(const std::string& text, int vocabulary) {
  try {
    json::parse_options lenient;
    lenient.allow_invalid_utf8 = true;  // texts are what was said
    const json::value value = json::parse(text, {}, lenient);
    const json::object& object = value.as_object();
    if (object.at("session_version").to_number<int>() != kVersion) {
      return Error{ErrorCode::unsupported, "its session was saved by another version of Dal Segno"};
    }
    return read(object, vocabulary);
  } catch (const std::exception&) {  // what Boost.JSON says where something is missing or of another type
    return Error{ErrorCode::corrupt, "its session is not what Dal Segno saves"};
  }
}

}  // namespace dalsegno
