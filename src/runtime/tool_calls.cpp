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
constexpr std::size_t kDeepest = 64;
constexpr std::string_view kPythonTag = "<|python_tag|>";

std::string_view trimmed(std::string_view text) {
  const std::size_t from = text.find_first_not_of(kSpace);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(kSpace) - from + 1);
}

Error malformed(std::string why) {
  return Error{ErrorCode::invalid_argument, "the tool call is malformed: " + std::move(why)};
}

json::parse_options depth_limit() {
  json::parse_options options;
  options.max_depth = kDeepest;
  return options;
}

Result<json::value> parse_json(std::string_view text) {
  boost::system::error_code error;
  json::value value = json::parse(text, error, {}, depth_limit());
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

Calls parse_hermes(std::string_view reply) {
  constexpr std::string_view kBegin = "<tool_call>";
  constexpr std::string_view kEnd = "</tool_call>";
  std::vector<ToolCall> calls;
  for (std::size_t at = reply.find(kBegin); at != std::string_view::npos; at = reply.find(kBegin, at)) {
    at += kBegin.size();
    // The last one may end with the reply.
    const std::size_t end = std::min(reply.find(kEnd, at), reply.size());
    DALSEGNO_ASSIGN(value, parse_json(trimmed(reply.substr(at, end - at))));
    DALSEGNO_ASSIGN(call, call_of(value));
    calls.push_back(std::move(call));
    at = end;
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
    json::stream_parser parser({}, depth_limit());
    boost::system::error_code error;
    const std::size_t used = parser.write_some(reply.data(), reply.size(), error);
    if (!error && !parser.done()) error = json::error::incomplete;
    if (error) return malformed(fmt::format("it is not valid JSON ({})", error.message()));
    DALSEGNO_ASSIGN(call, call_of(parser.release()));
    calls.push_back(std::move(call));
    reply = trimmed(reply.substr(used));
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

// Empty if the thinking does not end.
std::string_view without_thinking(std::string_view reply) {
  constexpr std::string_view kBegin = "<think>";
  constexpr std::string_view kEnd = "</think>";
  if (const std::size_t end = reply.rfind(kEnd); end != std::string_view::npos) return reply.substr(end + kEnd.size());
  return reply.starts_with(kBegin) ? std::string_view() : reply;
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

Result<json::value> definition(const Tool& tool) {
  if (tool.name.empty()) return Error{ErrorCode::invalid_argument, "a tool has no name"};
  boost::system::error_code error;
  json::value parameters = json::parse(tool.parameters_json, error, {}, depth_limit());
  if (error || !parameters.is_object()) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the parameters of the tool \"{}\" must be a JSON schema, which is an object", tool.name)};
  }
  return json::value{
      {"type", "function"},
      {"function", {{"name", tool.name}, {"description", tool.description}, {"parameters", std::move(parameters)}}}};
}

}  // namespace

const char* name(ToolCallStyle style) {
  for (const Style& row : kStyles) {
    if (row.style == style) return row.name;
  }
  return "automatic";
}

Result<std::vector<ToolCall>> parse_tool_calls(ToolCallStyle style, std::string_view reply) {
  const std::string_view text = trimmed(without_thinking(reply));
  for (const Style& row : kStyles) {
    if (row.style == style) return row.parse(text);
  }
  return Error{ErrorCode::invalid_argument, "a style must be chosen to find tool calls in a text"};
}

Result<std::string> tools_json(const std::vector<Tool>& tools) {
  json::array array;
  for (auto tool = tools.begin(); tool != tools.end(); ++tool) {
    DALSEGNO_ASSIGN(one, definition(*tool));
    if (std::any_of(tools.begin(), tool, [&](const Tool& other) { return other.name == tool->name; }))
      return Error{ErrorCode::invalid_argument, fmt::format("there are two tools named \"{}\"", tool->name)};
    array.push_back(std::move(one));
  }
  return json::serialize(array);
}

ToolCallStyle style_asked_for(std::string_view prompt) {
  const auto asked = [&](const Style& row) { return prompt.find(row.sign) != std::string_view::npos; };
  return std::find_if(kStyles.begin(), kStyles.end(), asked)->style;
}

std::string signature(const ToolCall& call) {
  boost::system::error_code error;
  const json::value arguments = json::parse(call.arguments_json, error, {}, depth_limit());
  return json::serialize(json::array{call.name, error ? json::value(call.arguments_json) : canonical(arguments)});
}

}  // namespace dalsegno
