#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "runtime/session_test_support.hpp"

namespace dalsegno {
namespace {

using namespace dalsegno::testing;
using ::testing::HasSubstr;

class SessionFile : public ::testing::Test {
 protected:
  SessionFile() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~SessionFile() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string path() const { return (folder_ / "session.safetensors").string(); }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() /
      fmt::format("dalsegno_{}_{}", ::getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

std::vector<Tool> tools(const char* description = "the time of a zone") {
  return {{.name = "time", .description = description, .handler = [](const std::string&) -> Result<std::string> {
             return std::string("noon");
           }}};
}

// Draws with a temperature, so that everything that draws depend on shows.
GenerateOptions drawn() {
  GenerateOptions options;
  options.max_tokens = 24;
  options.sampling = {.temperature = 1.5F, .top_p = 0.95F, .seed = 11, .stream = 3};
  options.sampling.logit_bias = {{65, -std::numeric_limits<float>::infinity()}, {66, 0.1F}};
  options.stop = {"never said"};
  options.logprobs = true;
  options.scheduling = {.urgency = 7, .deadline_seconds = 3600};
  return options;
}

void expect_same(const Reply& a, const Reply& b) {
  EXPECT_EQ(a.prompt_ids, b.prompt_ids);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.logprobs, b.logprobs);
}

TEST_F(SessionFile, GoesOnInAnotherEngineAsIfNothingHadBeen) {
  Reply next;
  Reply of_fork;
  std::vector<Message> transcript;
  {
    const auto engine = open_chat_engine();
    Session session = make_session(*engine, {.instructions = "Rhyme.", .tools = tools()});
    session.tags().insert("poems");
    turn(session, "One?", "Won.");
    ASSERT_TRUE(session.fork().ok());
    (void)said(session.respond("And two?", drawn()));
    transcript = session.transcript();
    const Result<void> saved = session.save(path());
    ASSERT_TRUE(saved.ok()) << saved.error().message;
    next = said(session.respond("Three?", drawn()));
    of_fork = said(session.fork().value().respond("Four?", drawn()));
  }
  const auto engine = open_chat_engine();
  auto loaded = Session::load(*engine, path(), tools());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->transcript(), transcript);
  EXPECT_EQ(loaded->tags(), std::set<std::string>{"poems"});
  ASSERT_EQ(loaded->reports().size(), 2U);
  EXPECT_EQ(loaded->reports()[1].turn, 2);
  EXPECT_EQ(loaded->last_options().max_tokens, 24);
  EXPECT_EQ(loaded->last_options().sampling.seed, 11U);
  EXPECT_EQ(loaded->last_options().scheduling.urgency, 7);
  EXPECT_EQ(loaded->last_options().scheduling.deadline_seconds, 3600);
  EXPECT_EQ(loaded->last_options().sampling.logit_bias, drawn().sampling.logit_bias);
  const Reply went_on = said(loaded->respond("Three?", loaded->last_options()));
  expect_same(went_on, next);
  EXPECT_EQ(went_on.usage.reused_tokens, next.usage.reused_tokens) << "nothing is computed twice";
  EXPECT_EQ(went_on.reuse.stopped, Stopped::cold);
  expect_same(said(loaded->fork().value().respond("Four?", drawn())), of_fork);
}

TEST_F(SessionFile, CanBeWrittenAgainAndAgain) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = "Rhyme."});
  for (const char* answer : {"One", "Two", "Three"}) {
    turn(session, "Next?", answer);
    ASSERT_TRUE(session.save(path()).ok());
    auto loaded = Session::load(*engine, path());
    ASSERT_TRUE(loaded.ok());
    EXPECT_EQ(loaded->transcript(), session.transcript());
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(SessionFile, BeforeItsFirstTurnThereIsATranscriptAlone) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = "Rhyme."});
  ASSERT_TRUE(session.save(path()).ok());
  auto loaded = Session::load(*engine, path());
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->transcript(), session.transcript());
  turn(*loaded, "One?", "Won.");
}

TEST_F(SessionFile, BranchesLeftEarlierAreFoundByTheirText) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = "Rhyme."});
  turn(session, "One?", "ab");  // one token as text, two as they were said
  turn(session, "Two?", "Too.");
  ASSERT_TRUE(session.rewind(1).ok());
  ASSERT_TRUE(session.save(path()).ok());
  auto loaded = Session::load(*engine, path());
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(turn(*loaded, "Two?", "Too.").prompt_ids, turn(session, "Two?", "Too.").prompt_ids);
}

TEST_F(SessionFile, ToolsComeWithTheirHandlersOrNotAtAll) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.tools = tools()});
  turn(session, "One?", "Won.");
  ASSERT_TRUE(session.save(path()).ok());
  const auto other = Session::load(*engine, path(), tools("another time"));
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(other.error().message, HasSubstr("tools"));
  auto without = Session::load(*engine, path());
  ASSERT_TRUE(without.ok());
  EXPECT_FALSE(without->run_tools("Two?", {}).ok());
  turn(*without, "Two?", "Too.");
  auto with = Session::load(*engine, path(), tools());
  ASSERT_TRUE(with.ok());
  Script script;
  script.say(R"(<tool_call>{"name": "time", "arguments": {}}</tool_call>)");
  script.say("Noon.");
  const auto ran = with->run_tools("When?", script.options());
  ASSERT_TRUE(ran.ok()) << ran.error().message;
  EXPECT_EQ(ran->reply.text, "Noon.");
}

TEST_F(SessionFile, WhatIsNoSessionIsRefused) {
  const auto engine = open_chat_engine();
  EXPECT_EQ(Session::load(*engine, path()).error().code, ErrorCode::not_found);
  const std::vector<TokenId> tokens{1, 2, 3};
  ASSERT_TRUE(PromptCache::make(*engine, tokens)->save(path()).ok());
  EXPECT_EQ(Session::load(*engine, path()).error().code, ErrorCode::unsupported);
  Session session(*engine);
  EXPECT_EQ(session.save((folder_ / "no" / "session").string()).error().code, ErrorCode::not_found);
  // But a session's file is a prompt cache too.
  turn(session, "One?", "Won.");
  ASSERT_TRUE(session.save(path()).ok());
  EXPECT_TRUE(PromptCache::load(*engine, path()).ok());
}

}  // namespace
}  // namespace dalsegno
