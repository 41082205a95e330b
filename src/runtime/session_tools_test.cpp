#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "runtime/session_test_support.hpp"

namespace dalsegno {
namespace {

using namespace dalsegno::testing;
using ::testing::HasSubstr;

std::string call(const std::string& name, const std::string& arguments) {
  return "<tool_call>{\"name\":\"" + name + "\",\"arguments\":" + arguments + "}</tool_call>";
}

class Tools : public ::testing::Test {
 protected:
  const std::unique_ptr<Engine> engine_ = open_chat_engine();
  std::vector<std::string> asked_;
  Session session_ = session(true);
  Script script_;

  Session session(bool strict) {
    return make_session(*engine_, {.tools = {{.name = "add",
                                              .handler = [this](const std::string& arguments) -> Result<std::string> {
                                                asked_.push_back(arguments);
                                                return std::string("sum ") + std::to_string(asked_.size());
                                              }},
                                             {.name = "fail",
                                              .handler = [](const std::string&) -> Result<std::string> {
                                                return Error{ErrorCode::io, "the disk is full"};
                                              }},
                                             {.name = "throw",
                                              .handler = [](const std::string&) -> Result<std::string> {
                                                throw std::runtime_error("out of luck");
                                              }}},
                                   .strict = strict});
  }

  ToolsReply run(int rounds = 8) {
    auto reply = session_.run_tools("Add up.", script_.options(), rounds);
    EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
    EXPECT_TRUE(script_.is_done());
    return reply.ok() ? std::move(reply).value() : ToolsReply{};
  }
};

TEST_F(Tools, RunUntilTheModelAnswers) {
  script_.say("First " + call("add", "{\"a\":1}") + call("add", "{\"a\":2}"));
  script_.say(call("add", "{\"a\":3}"));
  script_.say("Six.");
  const ToolsReply done = run();
  EXPECT_EQ(done.ended, ToolsEnded::answered);
  EXPECT_EQ(done.rounds, 2);
  EXPECT_EQ(done.reply.text, "Six.");
  EXPECT_EQ(asked_, (std::vector<std::string>{"{\"a\":1}", "{\"a\":2}", "{\"a\":3}"}));
  ASSERT_EQ(done.runs.size(), 3U);
  EXPECT_EQ(done.runs[1].result, "sum 2");
  const std::vector<Message>& all = session_.transcript();
  ASSERT_EQ(all.size(), 7U);
  EXPECT_EQ(all[2], (Message{"tool", "sum 1", "add"}));
  EXPECT_EQ(all[6].content, "Six.");
  // One turn of three replies, each of which prefills what is new.
  ASSERT_EQ(session_.reports().size(), 3U);
  for (const ReplyReport& report : session_.reports()) EXPECT_EQ(report.turn, 1);
  EXPECT_LT(session_.reports()[2].usage.prefilled_tokens, 50);
  EXPECT_EQ(session_.turns(), 1);
}

TEST_F(Tools, EndAfterTheRoundsAllowed) {
  for (int i = 0; i < 4; ++i) script_.say(call("add", "{\"a\":" + std::to_string(i) + "}"));
  const ToolsReply done = run(3);
  EXPECT_EQ(done.ended, ToolsEnded::rounds);
  EXPECT_EQ(done.rounds, 3);
  EXPECT_EQ(asked_.size(), 3U);
  EXPECT_EQ(session_.transcript().back().role, "assistant");
}

TEST_F(Tools, NeedANumberOfRoundsThatIsPossible) {
  const auto refused = session_.run_tools("Add up.", {}, -1);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("-1 rounds"), std::string::npos) << refused.error().message;
}

TEST_F(Tools, AreAllowedEightRounds) {
  for (int i = 0; i < 9; ++i) script_.say(call("add", "{\"a\":" + std::to_string(i) + "}"));
  EXPECT_EQ(run().rounds, 8);
}

TEST_F(Tools, EndWhenACallRepeats) {
  script_.say(call("add", R"({"a":1,"b":2})"));
  script_.say(call("add", R"({"a":2,"b":1})"));
  script_.say(call("add", R"({ "b":2.0, "a":1 })"));
  const ToolsReply done = run();
  EXPECT_EQ(done.ended, ToolsEnded::repeated);
  EXPECT_STREQ(name(done.ended), "repeated");
  EXPECT_EQ(asked_.size(), 2U);
  // Of another turn it is no repetition.
  script_.say(call("add", R"({"a":1,"b":2})"));
  script_.say("Three.");
  EXPECT_EQ(run().ended, ToolsEnded::answered);
}

TEST_F(Tools, FailuresAreTheModelsToRead) {
  session_ = session(false);
  script_.say(call("fail", "{}") + call("throw", "{}") + call("sing", "{}"));
  script_.say("<tool_call>{\"name\":</tool_call>");
  script_.say("<tool_call>{}</tool_call>");
  script_.say("I give up.");
  const ToolsReply done = run();
  EXPECT_EQ(done.ended, ToolsEnded::answered);
  ASSERT_EQ(done.runs.size(), 3U);
  EXPECT_EQ(done.runs[0].result, "error: the disk is full");
  EXPECT_EQ(done.runs[1].result, "error: out of luck");
  EXPECT_THAT(done.runs[2].result, HasSubstr("no tool \"sing\"; there are: add, fail, throw"));
  for (const ToolRun& one : done.runs) EXPECT_TRUE(one.failed);
  EXPECT_THAT(session_.transcript()[6].content, HasSubstr("malformed"));
  EXPECT_THAT(session_.transcript()[8].content, HasSubstr("no \"name\""));
}

TEST_F(Tools, EndWhenAMalformedCallRepeats) {
  session_ = session(false);
  script_.say("<tool_call>{</tool_call>");
  script_.say("<tool_call>{</tool_call>");
  EXPECT_EQ(run().ended, ToolsEnded::repeated);
}

TEST_F(Tools, DoNotRunForAReplyThatIsCutShort) {
  script_.say(call("add", "{}"));
  GenerateOptions options = script_.options();
  options.max_tokens = static_cast<int>(call("add", "{}").size());
  const auto done = session_.run_tools("Add up.", options);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(done->ended, ToolsEnded::unfinished);
  EXPECT_TRUE(asked_.empty());
}

TEST_F(Tools, MayNotCallTheirSession) {
  Session* session = nullptr;
  std::string answer;
  Session own =
      make_session(*engine_, {.tools = {{.name = "again", .handler = [&](const std::string&) -> Result<std::string> {
                                           auto reply = session->respond("x", {});
                                           if (!reply.ok()) answer = reply.error().message;
                                           return std::string("done");
                                         }}}});
  session = &own;
  script_.say(call("again", "{}"));
  script_.say("Done.");
  ASSERT_TRUE(own.run_tools("x", script_.options()).ok());
  EXPECT_THAT(answer, HasSubstr("at work already"));
}

TEST_F(Tools, AreCalledAsTheChoiceSays) {
  // The model would like to answer, but must call; after that it may.
  GenerateOptions options{.max_tokens = 120, .tool_choice = ToolChoice::named("fail")};
  options.logits_processor = [](std::span<const TokenId>, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0F);
    logits[kEndOfTurn] = 100;
    logits['}'] = 50;
  };
  const auto done = session_.run_tools("Add up.", options);
  ASSERT_TRUE(done.ok()) << done.error().message;
  EXPECT_EQ(done->ended, ToolsEnded::answered);
  EXPECT_EQ(done->rounds, 1);
  EXPECT_EQ(done->reply.text, "");
  ASSERT_EQ(done->runs.size(), 1U);
  EXPECT_EQ(done->runs[0].call, (ToolCall{"fail", "{}"}));
  EXPECT_EQ(session_.last_options().tool_choice, ToolChoice());

  options.tool_choice = ToolChoice::required();
  EXPECT_THAT(said(session_.respond("Again.", options)).text, ::testing::StartsWith("<tool_call>"));
  options.tool_choice = ToolChoice::none();
  options.logits_processor = [](std::span<const TokenId>, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0F);
    const std::string_view wanted = "<tool_call>";
    for (std::size_t i = 0; i < wanted.size(); ++i)
      logits[static_cast<unsigned char>(wanted[i])] = 1.0F + static_cast<float>(i);
  };
  EXPECT_EQ(said(session_.respond("Again.", options)).text, std::string(120, '>'));
}

TEST_F(Tools, MustBeCallableAsTheChoiceSays) {
  const auto refusal = [&](Session& session, const GenerateOptions& options) {
    const auto reply = session.respond("x", options);
    return reply.ok() ? "" : reply.error().message;
  };
  EXPECT_THAT(refusal(session_, {.tool_choice = ToolChoice::named("sing")}), HasSubstr("\"sing\""));
  EXPECT_THAT(refusal(session_, {.constraint = Constraint::regex("a"), .tool_choice = ToolChoice::required()}),
              HasSubstr("one of them"));
  EXPECT_EQ(said(session_.respond("x", {.constraint = Constraint::regex("a")})).text, "a");
  Session free = session(false);
  EXPECT_THAT(refusal(free, {.tool_choice = ToolChoice::required()}), HasSubstr("`strict`"));
  Session without(*engine_);
  EXPECT_THAT(refusal(without, {.tool_choice = ToolChoice::required()}), HasSubstr("has none"));
  EXPECT_THAT(engine_->generate(std::vector<TokenId>{1}, {.tool_choice = ToolChoice()}).error().message,
              HasSubstr("sessions with tools"));
  const auto odd =
      Session::create(*engine_, {.tools = {{.name = "odd", .parameters_json = R"({"$ref":"https://example.com/x"})"}}});
  ASSERT_FALSE(odd.ok());
  EXPECT_THAT(odd.error().message, HasSubstr("\"odd\""));
  EXPECT_THAT(odd.error().message, HasSubstr("`strict`"));
}

TEST_F(Tools, ForksAndSavedSessionsCallAlike) {
  Session session = make_session(
      *engine_, {.tools = {{.name = "now", .parameters_json = R"({"type":"object","additionalProperties":false})"}},
                 .tool_choice = ToolChoice::required()});
  const GenerateOptions options{.max_tokens = 200, .sampling = {.temperature = 1.0F}};
  ASSERT_TRUE(session.respond("x", options).ok());
  const std::string path = (std::filesystem::temp_directory_path() / "dalsegno-tools.safetensors").string();
  ASSERT_TRUE(session.save(path).ok());
  auto loaded = Session::load(*engine_, path);
  std::filesystem::remove(path);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  Session fork = std::move(session.fork(Session::Draws::same)).value();
  const Reply first = said(session.respond("y", options));
  EXPECT_THAT(first.text, ::testing::StartsWith("<tool_call>"));
  EXPECT_EQ(said(fork.respond("y", options)).ids, first.ids);
  EXPECT_EQ(said(loaded->respond("y", options)).ids, first.ids);
}

TEST(ToolSessions, AreRefusedWhereTheyCannotWork) {
  const auto engine = open_chat_engine(kThinkingTemplate);
  const auto refused = Session::create(*engine, {.tools = {{.name = "now"}}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("no place for tools"));
  Session session(*engine);
  EXPECT_THAT(session.run_tools("x", {}).error().message, HasSubstr("no tools"));
}

TEST(ToolSessions, NeedHandlersToRun) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.tools = {{.name = "now"}}});
  EXPECT_THAT(session.run_tools("x", {}).error().message, HasSubstr("no handler"));
  // Whoever answers calls by hand needs none.
  turn(session, "What time?", call("now", "{}"));
  std::vector<Message> messages = session.transcript();
  messages.push_back({"tool", "noon", "now"});
  ASSERT_TRUE(session.set_transcript(messages).ok());
  Script script;
  script.say("It is noon.");
  EXPECT_EQ(said(session.reply(script.options())).text, "It is noon.");
  EXPECT_EQ(session.turns(), 1);
}

}  // namespace
}  // namespace dalsegno
