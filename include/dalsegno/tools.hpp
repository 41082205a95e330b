#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/constraint.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno {

// Answers a call; arguments_json is a JSON object as the model wrote it, checked against the schema only where calls
// are enforced (SessionOptions::strict). An error's
// sentence, or what an exception says, is given to the model as the result. Runs on the thread that asked for the
// reply.
using ToolHandler = std::function<Result<std::string>(const std::string& arguments_json)>;

struct Tool {
  std::string name;
  std::string description{};
  std::string parameters_json = R"({"type":"object","properties":{}})";  // a JSON schema
  ToolHandler handler{};                                                 // needed by Session::run_tools alone
};

struct ToolCall {
  std::string name;
  std::string arguments_json;  // an object
  bool operator==(const ToolCall&) const = default;
};

// How a model writes its calls.
enum class ToolCallStyle : std::uint8_t {
  automatic,  // by what the chat template tells the model
  hermes,     // <tool_call>{"name":...,"arguments":{...}}</tool_call>, any number, other text between them (Qwen too)
  llama3,     // nothing but {"name":...,"parameters":{...}}, perhaps after <|python_tag|>; several with ';' between
  json,       // nothing but {"name":...,"arguments":{...}} or an array of them, perhaps in a ```json block
};
[[nodiscard]] const char* name(ToolCallStyle style);

// The calls in a reply, in their order; none in a plain answer. What stands before </think> does not count.
// Requires: the style is not automatic.
// Errors: invalid_argument (it is meant as a call, but malformed; the sentence says how, so that a model can mend it).
Result<std::vector<ToolCall>> parse_tool_calls(ToolCallStyle style, std::string_view reply);

// The constraint by which each call in a reply is one of these tools' and has arguments that are valid by its
// parameters_json, and by which the reply calls as it is told to. Text before </think> is free, and so is, where the
// choice is automatic, what is no call: a call begins with <tool_call> anywhere (hermes), or, at the reply's beginning,
// with { or <|python_tag|> (llama3), or with { or [{, perhaps after ``` or ```json (json). Needs no session.
// Its text is {"style":"hermes","tools":[{"name":...,"parameters":...}],"tool_choice":"auto"}; other choices are
// "required", "none" and {"name":...}.
// Requires: the style is not automatic. Errors: invalid_argument (a name that is empty or there twice, parameters that
// are no JSON object, a choice of a tool that is not there). What of the schemas cannot be enforced is told where the
// constraint is used.
Result<Constraint> tool_calls(ToolCallStyle style, const std::vector<Tool>& tools, const ToolChoice& choice = {});

}  // namespace dalsegno
