#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"

namespace dalsegno {

// Answers a call; arguments_json is a JSON object as the model wrote it, not checked against the schema. An error's
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

}  // namespace dalsegno
