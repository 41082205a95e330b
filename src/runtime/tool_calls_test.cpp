#include "runtime/tool_calls.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dalsegno {
namespace {

using ::testing::HasSubstr;

struct Case {
  const char* reply;
  std::vector<ToolCall> calls;
  const char* error = "";  // a part of it
};

const ToolCall kTime{"time", R"({"zone":"UTC"})"};
const ToolCall kNow{"now", "{}"};

void check(ToolCallStyle style, const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    const auto calls = parse_tool_calls(style, one.reply);
    if (*one.error != '\0') {
      ASSERT_FALSE(calls.ok()) << one.reply;
      EXPECT_EQ(calls.error().code, ErrorCode::invalid_argument);
      EXPECT_THAT(calls.error().message, HasSubstr(one.error)) << one.reply;
    } else {
      ASSERT_TRUE(calls.ok()) << one.reply << ": " << calls.error().message;
      EXPECT_EQ(calls.value(), one.calls) << one.reply;
    }
  }
}

TEST(ToolCalls, OfHermesStandBetweenTheirTags) {
  check(ToolCallStyle::hermes,
        {{"It is noon.", {}},
         {"", {}},
         {R"({"name":"time","arguments":{"zone":"UTC"}})", {}},
         {R"(<tool_call>{"name":"time","arguments":{"zone":"UTC"}}</tool_call>)", {kTime}},
         {"Let me see.\n<tool_call>\n{\"name\": \"time\", \"arguments\": {\"zone\": \"UTC\"}}\n</tool_call>\n"
          "<tool_call>{\"arguments\":{},\"name\":\"now\"}</tool_call> Done.",
          {kTime, kNow}},
         {R"(<tool_call>{"name":"now","arguments":{}})", {kNow}},
         {R"(<tool_call>{"name":"time","arguments":"{\"zone\":\"UTC\"}"}</tool_call>)", {kTime}},
         {R"(<think><tool_call>{"name":"x"}</tool_call></think><tool_call>{"name":"now","arguments":{}}</tool_call>)",
          {kNow}},
         {"<think>I could say <tool_call>", {}},
         {"I could say <tool_call>sing</tool_call></think>No.", {}},
         {R"(<tool_call>{"name":"time","arguments":{"zone":"</think></tool_call><tool_call>"}}</tool_call>)",
          {{"time", R"({"zone":"</think></tool_call><tool_call>"})"}}},
         {R"(<tool_call>{"name":"now","arguments":{}} now</tool_call>)", {}, "something follows"},
         {R"(<tool_call>{"name":"time","arguments":{"zone":</tool_call>)", {}, "not valid JSON"},
         {"<tool_call></tool_call>", {}, "not valid JSON"},
         {"<tool_call>time(UTC)</tool_call>", {}, "not valid JSON"},
         {"<tool_call>[]</tool_call>", {}, "not a JSON object"},
         {R"(<tool_call>{"arguments":{}}</tool_call>)", {}, "no \"name\""},
         {R"(<tool_call>{"name":3,"arguments":{}}</tool_call>)", {}, "no \"name\""},
         {R"(<tool_call>{"name":"","arguments":{}}</tool_call>)", {}, "no \"name\""},
         {R"(<tool_call>{"name":"now"}</tool_call>)", {}, "no \"arguments\""},
         {R"(<tool_call>{"name":"now","arguments":[1]}</tool_call>)", {}, "not a JSON object"},
         {R"(<tool_call>{"name":"now","arguments":"[]"}</tool_call>)", {}, "not a JSON object"},
         {R"(<tool_call>{"name":"now","arguments":{}}</tool_call><tool_call>{"name")", {}, "not valid JSON"}});
}

TEST(ToolCalls, OfLlama3AreAllThereIs) {
  check(ToolCallStyle::llama3,
        {{"It is noon.", {}},
         {"{x | x > 3}", {}},
         {R"({"answer": 42})", {}},
         {R"({"name":"time","parameters":{"zone":"UTC"}})", {kTime}},
         {"<|python_tag|>{\"name\": \"time\", \"parameters\": {\"zone\": \"UTC\"}}\n", {kTime}},
         {R"(<|python_tag|>{"name":"now","arguments":{}})", {kNow}},
         {R"({"name":"time","parameters":{"zone":"UTC"}}; {"name":"now","parameters":{}};)", {kTime, kNow}},
         {R"(Try {"name":"now","parameters":{}})", {}},
         {R"({"name":"now","parameters":{}}; {"name":"time","parameters":{"zone":"</think>"}})",
          {kNow, {"time", R"({"zone":"</think>"})"}}},
         {"{x}</think>Well.", {}},
         {"<|python_tag|>now.call()", {}, "no program code"},
         {R"({"name":"time","parameters":{"zone")", {}, "not valid JSON"},
         {R"({"name":"now","parameters":{}} and so on)", {}, "follows"},
         {R"({"name":"now","parameters":{}}{"name":"now","parameters":{}})", {}, "follows"},
         {R"({"name":"now","parameters":3})", {}, "not a JSON object"}});
}

TEST(ToolCalls, OfPlainJsonMayBeAnArrayOrInAFence) {
  check(ToolCallStyle::json,
        {{"It is noon.", {}},
         {"[1, 2]", {}},
         {R"({"name":"Ada","age":36})", {}},
         {R"({"name":"time","arguments":{"zone":"UTC"}})", {kTime}},
         {R"({"name":"time","parameters":{"zone":"UTC"}})", {kTime}},
         {R"([{"name":"time","arguments":{"zone":"UTC"}}, {"name":"now","arguments":{}}])", {kTime, kNow}},
         {"```json\n{\"name\":\"now\",\"arguments\":{}}\n```", {kNow}},
         {"```\n[{\"name\":\"now\",\"arguments\":{}}]\n```", {kNow}},
         {"```", {}},
         {"```json\n[{\"name\":\"time\",\"arguments\":{\"zone\":\"</think>\"}}]\n```",
          {{"time", R"({"zone":"</think>"})"}}},
         {R"({"name":"now","arguments":{}} or so)", {}, "not valid JSON"},
         {R"([{"name":"now","arguments":{}}, 3])", {}, "not a JSON object"},
         {R"([{"name":"now","arguments":{}})", {}, "not valid JSON"}});
}

TEST(ToolCalls, NestedTooDeepAreMalformed) {
  const std::string deep(100'000, '[');
  check(ToolCallStyle::hermes, {{("<tool_call>" + deep).c_str(), {}, "not valid JSON"}});
  check(ToolCallStyle::llama3, {{("<|python_tag|>{\"name\":" + deep).c_str(), {}, "not valid JSON"}});
}

TEST(ToolCalls, NeedAStyle) {
  EXPECT_FALSE(parse_tool_calls(ToolCallStyle::automatic, "x").ok());
  for (const ToolCallStyle style : {ToolCallStyle::hermes, ToolCallStyle::llama3, ToolCallStyle::json})
    EXPECT_STRNE(name(style), "automatic");
}

TEST(ToolCalls, AreAlikeIfTheyMeanTheSame) {
  const std::string one = signature({"f", R"({"a":1,"b":{"c":[1.0,2.5],"d":null}})"});
  EXPECT_EQ(one, signature({"f", R"({ "b": {"d":null, "c":[1, 2.5]}, "a":1.0 })"}));
  EXPECT_NE(one, signature({"g", R"({"a":1,"b":{"c":[1,2.5],"d":null}})"}));
  EXPECT_NE(one, signature({"f", R"({"a":1,"b":{"c":[2.5,1],"d":null}})"}));
}

TEST(ToolCalls, TemplatesShowTheirStyle) {
  EXPECT_EQ(style_asked_for("return each call within <tool_call></tool_call> tags"), ToolCallStyle::hermes);
  EXPECT_EQ(style_asked_for(R"({"name": function name, "parameters": dictionary of argument name and its value})"),
            ToolCallStyle::llama3);
  EXPECT_EQ(style_asked_for("You have tools."), ToolCallStyle::json);
}

TEST(ToolCalls, DefinitionsAreWhatTemplatesExpect) {
  const auto text = tools_json({{.name = "now", .description = "the time", .parameters_json = R"({"type":"object"})"}});
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(
      *text,
      R"([{"type":"function","function":{"name":"now","description":"the time","parameters":{"type":"object"}}}])");
  for (const auto& [tools, part] :
       std::vector<std::pair<std::vector<Tool>, std::string>>{{{{.name = ""}}, "no name"},
                                                              {{{.name = "a"}, {.name = "a"}}, "two tools"},
                                                              {{{.name = "a", .parameters_json = "[]"}}, "schema"},
                                                              {{{.name = "a", .parameters_json = "{"}}, "schema"}}) {
    const auto refused = tools_json(tools);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(refused.error().message, HasSubstr(part));
  }
}

}  // namespace
}  // namespace dalsegno
