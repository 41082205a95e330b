#include "runtime/tool_calls.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <optional>

namespace dalsegno {
namespace {

namespace json = boost::json;

constexpr std::string_view kSpace = " \t\r\n";
constexpr std::size_t kDeepest = 64;         // of a definition
constexpr std::size_t kDeepestCall = 1'000;  // more than any reply that was drawn token by token comes to
constexpr std::string_view kToolCall = "<tool_call>";
constexpr std::string_view kToolCallEnd = "</tool_call>";
constexpr std::string_view kPythonTag = "<|python_tag|>";

std::string_view trimmed(std::string_view text) {
  const std::size_t from = text.find_first_not_of(kSpace);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(kSpace) - from + 1);
}

Error malformed(std::string why) {
  return Error{ErrorCode::invalid_argument, "the tool call is malformed: " + std::move(why)};
}

json::parse_options depth_limit(std::size_t deepest) {
  json::parse_options options;
  options.max_depth = deepest;
  return options;
}

Result<json::value> parse_json(std::string_view text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error, {}, depth_limit(kDeepestCall));
  if (error) return malformed(fmt::format("it is not valid JSON ({})", error.message()));
  return value;
}

// Some models write the arguments as a string that holds JSON.
Result<std::string> arguments_of(const json::value& value) {
  if (value.is_object()) return json::serialize(value);
  if (const json::string* text = value.if_string()) {
    DALSEGNO_ASSIGN(inner, parse_json(*text));
    if (inner.is_object()) return json::serialize(inner);
  }
  return malformed("its arguments are not a JSON object");
}

Result<ToolCall> call_of(const json::value& value) {
  const json::object* object = value.if_object();
  if (object == nullptr) return malformed("it is not a JSON object");
  const json::value* name = object->if_contains("name");
  if (name == nullptr || !name->is_string() || name->get_string().empty())
    return malformed("it has no \"name\", which must be a string");
  const json::value* arguments = object->if_contains("arguments");
  if (arguments == nullptr) arguments = object->if_contains("parameters");
  if (arguments == nullptr) return malformed("it has no \"arguments\", which must be an object");
  DALSEGNO_ASSIGN(text, arguments_of(*arguments));
  return ToolCall{std::string(name->get_string()), std::move(text)};
}

using Calls = Result<std::vector<ToolCall>>;

// Of the text's beginning; with how much of the text it is.
Result<std::pair<json::value, std::size_t>> parse_first(std::string_view text) {
  json::stream_parser parser({}, depth_limit(kDeepestCall));
  boost::system::error_code error;
  const std::size_t used = parser.write_some(text.data(), text.size(), error);
  if (!error && !parser.done()) error = json::error::incomplete;
  if (error) return malformed(fmt::format("it is not valid JSON ({})", error.message()));
  return std::pair(parser.release(), used);
}

// Where a tag's text occurs in a call, it is a part of that.
Calls parse_hermes(std::string_view reply) {
  std::vector<ToolCall> calls;
  for (std::size_t at = reply.find(kToolCall); at != std::string_view::npos; at = reply.find(kToolCall, at)) {
    at += kToolCall.size();
    DALSEGNO_ASSIGN(parsed, parse_first(reply.substr(at)));
    at += parsed.second;
    // The last one may end with the reply.
    const std::string_view rest = trimmed(reply.substr(at));
    if (!rest.empty() && !rest.starts_with(kToolCallEnd))
      return malformed("it is not valid JSON (something follows it before </tool_call>)");
    DALSEGNO_ASSIGN(call, call_of(parsed.first));
    calls.push_back(std::move(call));
  }
  return calls;
}

// Whether a text that is not marked as a call is meant as one: a reply may well begin with a brace.
bool looks_like_call(std::string_view text, std::string_view arguments) {
  return text.starts_with('{') && text.find("\"name\"") != std::string_view::npos &&
         text.find(arguments) != std::string_view::npos;
}

Calls parse_llama3(std::string_view reply) {
  const bool tagged = reply.starts_with(kPythonTag);
  if (tagged) reply = trimmed(reply.substr(kPythonTag.size()));
  if (tagged && !reply.starts_with('{')) return malformed("only JSON calls are understood, no program code");
  if (!tagged && !looks_like_call(reply, "\"parameters\"")) return std::vector<ToolCall>();
  std::vector<ToolCall> calls;
  while (!reply.empty()) {
    DALSEGNO_ASSIGN(parsed, parse_first(reply));
    DALSEGNO_ASSIGN(call, call_of(parsed.first));
    calls.push_back(std::move(call));
    reply = trimmed(reply.substr(parsed.second));
    if (reply.empty()) break;
    if (!reply.starts_with(';')) return malformed("something follows it that is no call");
    reply = trimmed(reply.substr(1));
  }
  return calls;
}

std::string_view without_fence(std::string_view text) {
  constexpr std::string_view kFence = "```";
  if (!text.starts_with(kFence) || !text.ends_with(kFence) || text.size() < 2 * kFence.size()) return text;
  text = text.substr(kFence.size(), text.size() - 2 * kFence.size());
  if (text.starts_with("json")) text.remove_prefix(4);
  return trimmed(text);
}

Calls parse_plain_json(std::string_view reply) {
  const std::string_view text = without_fence(reply);
  const std::string_view first = text.starts_with('[') ? trimmed(text.substr(1)) : text;
  if (!looks_like_call(first, "\"arguments\"") && !looks_like_call(first, "\"parameters\""))
    return std::vector<ToolCall>();
  DALSEGNO_ASSIGN(value, parse_json(text));
  std::vector<ToolCall> calls;
  if (!value.is_array()) value = json::array{std::move(value)};
  for (const json::value& element : value.get_array()) {
    DALSEGNO_ASSIGN(call, call_of(element));
    calls.push_back(std::move(call));
  }
  return calls;
}

// A way of writing calls. A template asks for it if the prompts it renders hold the sign; the first row counts.
struct Style {
  ToolCallStyle style;
  const char* name;
  std::string_view sign;
  Calls (*parse)(std::string_view reply);
};
constexpr std::array<Style, 3> kStyles = {{
    {ToolCallStyle::hermes, "hermes", "<tool_call>", parse_hermes},
    {ToolCallStyle::llama3, "llama3", "\"parameters\": dictionary", parse_llama3},
    {ToolCallStyle::json, "json", "", parse_plain_json},
}};

// Where the JSON ends that begins at or after `at`; npos: nothing valid does.
std::size_t end_of_json(std::string_view text, std::size_t at) {
  const auto parsed = parse_first(text.substr(at));
  return parsed.ok() ? at + parsed->second : std::string_view::npos;
}

// Whether that place is in the JSON of a call. Text and place are those after thoughts that have ended before.
bool is_in_call(ToolCallStyle style, std::string_view text, std::size_t place) {
  std::size_t at = 0;
  if (style == ToolCallStyle::hermes) {
    while ((at = text.find(kToolCall, at)) < place) {
      at += kToolCall.size();
      const std::size_t end = end_of_json(text, at);
      if (end == std::string_view::npos) continue;
      if (place < end) return true;
      at = end;
    }
    return false;
  }
  at = text.find_first_not_of(kSpace);
  for (const std::string_view before : {kPythonTag, std::string_view("```json"), std::string_view("```")}) {
    if (at < place && text.substr(at).starts_with(before)) at = text.find_first_not_of(kSpace, at + before.size());
  }
  while (at < place && (text[at] == '{' || text[at] == '[')) {
    const std::size_t end = end_of_json(text, at);
    if (end == std::string_view::npos || place < end) return end != std::string_view::npos;
    at = text.find_first_not_of(" \t\r\n;", end);
  }
  return false;
}

// Empty if the thinking does not end. Arguments may hold its end's text, thoughts that of calls.
std::string_view without_thinking(ToolCallStyle style, std::string_view reply) {
  constexpr std::string_view kBegin = "<think>";
  constexpr std::string_view kEnd = "</think>";
  bool thinks = trimmed(reply).starts_with(kBegin);
  std::size_t at = 0;
  while ((at = reply.find(kEnd, at)) != std::string_view::npos) {
    const bool is_end = thinks || !is_in_call(style, reply, at);
    at += kEnd.size();
    if (!is_end) continue;
    reply.remove_prefix(at);
    thinks = false;
    at = 0;
  }
  return thinks ? std::string_view() : reply;
}

json::value canonical(const json::value& value) {
  if (const json::object* object = value.if_object()) {
    std::vector<const json::key_value_pair*> members;
    for (const auto& member : *object) members.push_back(&member);
    std::sort(members.begin(), members.end(), [](const auto* a, const auto* b) { return a->key() < b->key(); });
    json::object sorted;
    for (const auto* member : members) sorted.emplace(member->key(), canonical(member->value()));
    return sorted;
  }
  if (const json::array* array = value.if_array()) {
    json::array out;
    for (const json::value& element : *array) out.push_back(canonical(element));
    return out;
  }
  const double* number = value.if_double();
  if (number != nullptr && std::trunc(*number) == *number && std::abs(*number) < 0x1p53)
    return static_cast<std::int64_t>(*number);
  if (const std::uint64_t* unsigned_number = value.if_uint64())
    return *unsigned_number <= INT64_MAX ? json::value(static_cast<std::int64_t>(*unsigned_number)) : value;
  return value;
}

Result<json::value> parameters_of(const Tool& tool) {
  boost::system::error_code error;
  json::value parameters = json::parse(tool.parameters_json, error, {}, depth_limit(kDeepest));
  if (!error && parameters.is_object()) return parameters;
  return Error{ErrorCode::invalid_argument,
               fmt::format("the parameters of the tool \"{}\" must be a JSON schema, which is an object", tool.name)};
}

Result<void> check_name(const std::vector<Tool>& tools, std::vector<Tool>::const_iterator tool) {
  if (tool->name.empty()) return Error{ErrorCode::invalid_argument, "a tool has no name"};
  if (std::none_of(tools.begin(), tool, [&](const Tool& other) { return other.name == tool->name; })) return {};
  return Error{ErrorCode::invalid_argument, fmt::format("there are two tools named \"{}\"", tool->name)};
}

}  // namespace

const char* name(ToolCallStyle style) {
  for (const Style& row : kStyles) {
    if (row.style == style) return row.name;
  }
  return "automatic";
}

Result<std::vector<ToolCall>> parse_tool_calls(ToolCallStyle style, std::string_view reply) {
  const std::string_view text = trimmed(without_thinking(style, reply));
  for (const Style& row : kStyles) {
    if (row.style == style) return row.parse(text);
  }
  return Error{ErrorCode::invalid_argument, "a style must be chosen to find tool calls in a text"};
}

Result<Constraint> tool_calls(ToolCallStyle style, const std::vector<Tool>& tools, const ToolChoice& choice) {
  if (style == ToolCallStyle::automatic)
    return Error{ErrorCode::invalid_argument, "a style must be chosen to say what tool calls look like"};
  json::array all;
  for (auto tool = tools.begin(); tool != tools.end(); ++tool) {
    DALSEGNO_TRY(check_name(tools, tool));
    DALSEGNO_ASSIGN(parameters, parameters_of(*tool));
    all.push_back({{"name", tool->name}, {"parameters", std::move(parameters)}});
  }
  json::value wanted = json::value("auto");
  if (choice.kind == ToolChoice::Kind::required) wanted = "required";
  if (choice.kind == ToolChoice::Kind::none) wanted = "none";
  if (choice.kind == ToolChoice::Kind::named) {
    if (std::none_of(tools.begin(), tools.end(), [&](const Tool& tool) { return tool.name == choice.name; })) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("the tool that must be called, \"{}\", is not among the tools", choice.name)};
    }
    wanted = {{"name", choice.name}};
  }
  return Constraint{Constraint::Kind::tool_calls,
                    json::serialize(json::object{
                        {"style", name(style)}, {"tools", std::move(all)}, {"tool_choice", std::move(wanted)}})};
}

Result<std::string> tools_json(const std::vector<Tool>& tools) {
  json::array array;
  for (auto tool = tools.begin(); tool != tools.end(); ++tool) {
    DALSEGNO_TRY(check_name(tools, tool));
    DALSEGNO_ASSIGN(parameters, parameters_of(*tool));
    const json::value function = {
        {"name", tool->name}, {"description", tool->description}, {"parameters", std::move(parameters)}};
    array.push_back({{"type", "function"}, {"function", function}});
  }
  return json::serialize(array);
}

ToolCallStyle style_asked_for(std::string_view prompt) {
  const auto asked = [&](const Style& row) { return prompt.find(row.sign) != std::string_view::npos; };
  return std::find_if(kStyles.begin(), kStyles.end(), asked)->style;
}

std::string signature(const ToolCall& call) {
  boost::system::error_code error;
  const json::value arguments = json::parse(call.arguments_json, error, {}, depth_limit(kDeepestCall));
  return json::serialize(json::array{call.name, error ? json::value(call.arguments_json) : canonical(arguments)});
}

}  // namespace dalsegno
