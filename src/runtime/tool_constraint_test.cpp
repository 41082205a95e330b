// Tool calls as a constraint, token by token: every token is a byte, </s> ends a text.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <chrono>

#include "dalsegno/batch.hpp"
#include "runtime/local_engine.hpp"
#include "runtime/session_test_support.hpp"
#include "text/grammar.hpp"

namespace dalsegno {
namespace {

using namespace dalsegno::testing;
using ::testing::HasSubstr;

constexpr const char* kWeather =
    R"({"type":"object","properties":{"city":{"enum":["Rome","Oslo"]},"days":{"type":"integer","minimum":1,
        "maximum":9}},"required":["city"],"additionalProperties":false})";
constexpr const char* kNothing = R"({"type":"object","properties":{},"additionalProperties":false})";
// Refers to itself, and has what llguidance has no words for.
constexpr const char* kTree =
    R"({"$defs":{"node":{"type":"object","properties":{"next":{"$ref":"#/$defs/node"},"of":{"not":{"type":"string"},
        "type":["string","integer"]}},"additionalProperties":false}},"$ref":"#/$defs/node"})";

std::vector<Tool> three_tools() {
  return {{.name = "weather", .parameters_json = kWeather},
          {.name = "now", .parameters_json = kNothing},
          {.name = "tree", .parameters_json = kTree}};
}

Constraint calls(ToolCallStyle style, const ToolChoice& choice, const std::vector<Tool>& given = three_tools()) {
  auto made = tool_calls(style, given, choice);
  EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
  return made.ok() ? std::move(made).value() : Constraint{};
}

class ToolConstraints : public ::testing::Test {
 protected:
  const std::unique_ptr<Engine> engine_ = open_chat_engine();
  LocalEngine& local_ = dynamic_cast<LocalEngine&>(*engine_);
  const std::unique_ptr<Grammars> grammars_ = std::move(Grammars::create(local_.vocabulary())).value();

  Matcher compile(const Constraint& constraint) {
    auto made = grammars_->compile(constraint);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return std::move(made).value();
  }
  // How much of the text is allowed; all of it and one more: and the text may end there.
  std::size_t allowed(const Matcher& beginning, std::string_view text) {
    Matcher matcher = std::move(beginning.clone()).value();
    TokenMask mask(local_.vocabulary().size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      const TokenId id = static_cast<unsigned char>(text[i]);
      const auto state = matcher.mask(mask);
      EXPECT_TRUE(state.ok());
      const auto forced = matcher.forced();
      EXPECT_TRUE(forced.ok());
      if (forced.ok() && forced.value()) {
        EXPECT_EQ(mask.count(), 1) << text.substr(0, i);
      }
      if (!mask.has(id)) return i;
      EXPECT_TRUE(matcher.consume({&id, 1}).ok()) << text.substr(0, i + 1);
    }
    EXPECT_TRUE(matcher.mask(mask).ok());
    EXPECT_EQ(mask.has(kEndOfTurn), matcher.accepts().value()) << text;
    return text.size() + (mask.has(kEndOfTurn) ? 1 : 0);
  }
  void check(ToolCallStyle style, const ToolChoice& choice, const std::vector<std::string>& whole,
             const std::vector<std::pair<std::string, std::string>>& broken) {
    const Matcher matcher = compile(calls(style, choice));
    for (const std::string& text : whole) {
      EXPECT_EQ(allowed(matcher, text), text.size() + 1) << text;
      EXPECT_TRUE(parse_tool_calls(style, text).ok()) << text;
    }
    for (const auto& [beginning, rest] : broken) {
      const std::size_t reached = allowed(matcher, beginning + rest);
      EXPECT_GE(reached, beginning.size()) << beginning << " | " << rest;
      EXPECT_LE(reached, (beginning + rest).size()) << beginning << " | " << rest;
      if (rest.empty()) continue;
      EXPECT_EQ(reached, beginning.size()) << beginning << " | " << rest;
    }
  }
};

TEST_F(ToolConstraints, HermesCallsStandInFreeText) {
  check(ToolCallStyle::hermes, {},
        {"It is noon.", "", "<tool_calls> and <tool>, a < b", std::string("\x00\xFF\xC3 any bytes", 13),
         R"(<tool_call>{"name":"now","arguments":{}}</tool_call>)",
         "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\", \"days\": "
         "3}}\n</tool_call>\n"
         "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call> Done.",
         R"(<tool_call>{"name":"tree","arguments":{"next":{"next":{"of":3}}}}</tool_call>)",
         "<think>I could say <tool_call>sing</tool_call></think>\nNo.", "{\"name\":\"sing\",\"arguments\":3}"},
        {{"<tool_call>", "sing"},
         {"x <<tool_call>{\"name\":\"", "sing"},
         {"<tool_call>{\"name\":\"now\",\"arguments\":{", "\"a\""},
         {"<tool_call>{\"name\":\"weather\",\"arguments\":{", "}"},
         {"<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":\"", "Paris"},
         {"<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":\"Rome\",\"days\":", "0"},
         {"<tool_call>{\"name\":\"tree\",\"arguments\":{\"of\":", "\"x\""},
         {"<tool_call>{\"name\":\"now\",\"arguments\":{}}", ""},
         {"<think></think><tool_call>{\"name\":\"", "x"},
         {"<think>a</think> </think> <tool_call>{", "}"}});
}

TEST_F(ToolConstraints, HermesCallsMayBeRequired) {
  const std::string now = R"(<tool_call>{"name":"now","arguments":{}}</tool_call>)";
  const std::string rome = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
  check(ToolCallStyle::hermes, ToolChoice::required(), {now, now + "\n" + rome},
        {{"", "I"}, {"", ""}, {now + " ", "Done"}, {"<tool_call>{\"name\":\"", "x"}});
  check(ToolCallStyle::hermes, ToolChoice::named("weather"), {rome, rome + rome},
        {{"", "I"}, {"<tool_call>{\"name\":\"", "now"}, {rome + "<tool_call>{\"name\":\"", "now"}});
  check(ToolCallStyle::hermes, ToolChoice::none(), {"It is noon, <tool_calls>", "<think><tool_call></think>", ""},
        {{"<tool_call", ">"}});
}

TEST_F(ToolConstraints, Llama3CallsBeginTheReply) {
  const std::string now = R"({"name":"now","parameters":{}})";
  const std::string rome = R"({"name": "weather", "parameters": {"city": "Rome", "days": 9}})";
  check(ToolCallStyle::llama3, {},
        {"It is noon.", "", "Try {x}", now, "\n" + now + "; " + rome, "<|python_tag|>" + rome},
        {{"{", "x"}, {" {\"name\":\"", "sing"}, {now, "x"}, {"<|python_tag|>", "now.call()"}, {"{", ""}});
  check(ToolCallStyle::llama3, ToolChoice::required(), {now, now + ";" + rome}, {{"", "I"}, {"", ""}});
  check(ToolCallStyle::llama3, ToolChoice::named("now"), {now}, {{"{\"name\":\"", "weather"}});
  check(ToolCallStyle::llama3, ToolChoice::none(), {"It is {noon}.", ""}, {{" ", "{"}});
}

TEST_F(ToolConstraints, JsonCallsBeginTheReply) {
  const std::string now = R"({"name":"now","arguments":{}})";
  const std::string rome = R"({"name": "weather", "arguments": {"city": "Rome"}})";
  check(ToolCallStyle::json, {},
        {"It is noon.", "[1, 2]", "```python\n{}\n```", now, "[" + now + ", " + rome + "]", "```json\n" + now + "\n```",
         "```\n[" + now + "]\n```"},
        {{"{", "x"}, {"[{\"name\":\"", "sing"}, {"```json\n{", "}"}, {now, " x"}, {"[" + now, ""}});
  check(ToolCallStyle::json, ToolChoice::required(), {now, "[" + now + "," + now + "]"}, {{"", "I"}, {"[", "1"}});
  check(ToolCallStyle::json, ToolChoice::none(), {"[1]", "x {"}, {{"[ ", "{"}, {"```json\n", "{"}});
}

TEST_F(ToolConstraints, ThoughtsOfThePromptAreFree) {
  Matcher matcher = compile(calls(ToolCallStyle::hermes, ToolChoice::required()));
  matcher.think();
  const std::string now = R"(<tool_call>{"name":"now","arguments":{}}</tool_call>)";
  for (const std::string& text : {"Well, <tool_call>x\n</think>\n\n" + now, "</think>" + now})
    EXPECT_EQ(allowed(matcher, text), text.size() + 1) << text;
  for (const std::string text : {"Well", "Well</think>"}) EXPECT_EQ(allowed(matcher, text), text.size()) << text;
  EXPECT_EQ(allowed(matcher, "x</think> No"), 10U);
}

TEST_F(ToolConstraints, WhatCannotBeEnforcedNamesItsTool) {
  const auto refusal = [&](const std::string& schema) {
    const auto made = grammars_->compile(
        calls(ToolCallStyle::hermes, {}, {three_tools()[0], {.name = "odd", .parameters_json = schema}}));
    EXPECT_FALSE(made.ok()) << schema.substr(0, 100);
    return made.ok() ? "" : made.error().message;
  };
  EXPECT_THAT(refusal(R"({"type":"object","properties":{"a":{"$ref":"https://example.com/x"}}})"),
              HasSubstr("\"odd\""));
  EXPECT_THAT(refusal(R"({"type":"string"})"), HasSubstr("arguments are an object"));
  EXPECT_THAT(refusal(R"({"properties":{"a":false},"required":["a"]})"), HasSubstr("\"odd\""));
  std::string bomb = R"({"type":"integer"})";
  for (int i = 0; i < 14; ++i) bomb = R"({"anyOf":[)" + bomb + "," + bomb + "]}";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(refusal(R"({"properties":{"a":)" + bomb + "}}"), HasSubstr("\"odd\""));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {"{", "not JSON"},
           {R"({"style":"x"})", "\"style\""},
           {R"({"style":"json","tools":[]})", "0 tools"},
           {R"({"style":"json","tools":[{"name":"a","parameters":{}}],"tool_choice":{"name":"b"}})", "\"b\""}}) {
    const auto made = grammars_->compile({Constraint::Kind::tool_calls, text});
    ASSERT_FALSE(made.ok()) << text;
    EXPECT_THAT(made.error().message, HasSubstr(part));
  }
  EXPECT_FALSE(tool_calls(ToolCallStyle::automatic, three_tools(), {}).ok());
  EXPECT_FALSE(tool_calls(ToolCallStyle::json, three_tools(), ToolChoice::named("x")).ok());
}

TEST_F(ToolConstraints, ManyToolsCompile) {
  std::vector<Tool> many;
  for (int i = 0; i < 64; ++i) many.push_back({.name = "tool_" + std::to_string(i), .parameters_json = kWeather});
  const Matcher matcher = compile(calls(ToolCallStyle::hermes, ToolChoice::required(), many));
  const std::string call = R"(<tool_call>{"name":"tool_63","arguments":{"city":"Oslo"}}</tool_call>)";
  EXPECT_EQ(allowed(matcher, call), call.size() + 1);
}

// What is drawn at random by a model of random weights.
bool is_valid(const ToolCall& call) {
  const boost::json::object arguments = boost::json::parse(call.arguments_json).as_object();
  if (call.name == "now") return arguments.empty();
  if (call.name != "weather" || !arguments.contains("city")) return false;
  return std::ranges::all_of(arguments, [](const auto& member) {
    if (member.key() == "city") return member.value() == "Rome" || member.value() == "Oslo";
    return member.key() == "days" && member.value().is_int64() && member.value().as_int64() >= 1 &&
           member.value().as_int64() <= 9;
  });
}

TEST_F(ToolConstraints, NoDrawBreaksACallThatIsRequired) {
  const std::vector<Tool> two = {three_tools()[0], three_tools()[1]};
  for (const ToolCallStyle style : {ToolCallStyle::hermes, ToolCallStyle::llama3, ToolCallStyle::json}) {
    BatchGenerator batch(*engine_);
    std::vector<BatchRequest> requests;
    for (int i = 0; i < 40; ++i) {
      BatchRequest request{.prompt = {256, 'a', i}, .keep_cache = false};
      request.options.max_tokens = 300;
      request.options.constraint =
          calls(style, i % 4 == 3 ? ToolChoice::named("weather") : ToolChoice::required(), two);
      request.options.sampling = {.temperature = 1.5F, .seed = static_cast<std::uint64_t>(i)};
      requests.push_back(std::move(request));
    }
    const auto uids = batch.insert(std::move(requests));
    ASSERT_TRUE(uids.ok()) << uids.error().message;
    std::map<std::uint64_t, std::string> texts;
    int finished = 0;
    for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
      for (const BatchResponse& response : responses) {
        texts[response.uid] += response.text;
        if (!response.finish_reason) continue;
        const std::string& text = texts[response.uid];
        ASSERT_NE(*response.finish_reason, FinishReason::dead_end) << text;
        if (*response.finish_reason != FinishReason::stop) continue;
        ++finished;
        const auto parsed = parse_tool_calls(style, text);
        ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.error().message;
        EXPECT_FALSE(parsed->empty()) << text;
        for (const ToolCall& call : *parsed) EXPECT_TRUE(is_valid(call)) << text;
      }
    }
    EXPECT_GT(finished, 10) << name(style);
  }
}

TEST_F(ToolConstraints, FreeTextIsDrawnAsWithoutTools) {
  GenerateOptions free{.max_tokens = 200, .sampling = {.temperature = 1.0F}};
  GenerateOptions strict = free;
  strict.constraint = calls(ToolCallStyle::hermes, {});
  for (int i = 0; i < 8; ++i) {
    const std::vector<TokenId> prompt{256, 'q', i};
    free.sampling.seed = strict.sampling.seed = static_cast<std::uint64_t>(i);
    const Reply without = said(engine_->generate(prompt, free));
    const Reply with = said(engine_->generate(prompt, strict));
    EXPECT_EQ(with.ids, without.ids);
    EXPECT_EQ(with.usage.reused_tokens, 2) << "K/V of both are the same";
  }
}

TEST_F(ToolConstraints, ContinueWhereAReplyWasCutOff) {
  const std::string text = R"(So: <tool_call>{"name":"weather","arguments":{"city":"Ro)";
  std::vector<TokenId> prompt{256, 'q'};
  for (const char c : text) prompt.push_back(static_cast<unsigned char>(c));
  GenerateOptions options{.max_tokens = 2, .constraint = calls(ToolCallStyle::hermes, {})};
  options.constraint->continues = static_cast<int>(text.size());
  EXPECT_EQ(said(engine_->generate(prompt, options)).text, "me");
  prompt.back() = 'x';
  EXPECT_THAT(engine_->generate(prompt, options).error().message, HasSubstr("not what it allows"));
}

}  // namespace
}  // namespace dalsegno
