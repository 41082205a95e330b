#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/session_test_support.hpp"

namespace dalsegno {
namespace {

using namespace dalsegno::testing;
using ::testing::HasSubstr;

const std::string kInstructions = "Answer in one word, and in rhyme where that can be done at all.";

std::vector<Tool> two_tools() {
  const auto handler = [](const std::string&) -> Result<std::string> { return std::string("noon"); };
  return {{.name = "time", .description = "the time of a zone", .handler = handler},
          {.name = "now", .description = "the time here", .handler = handler}};
}

TEST(Prewarm, WarmsAllThatTheFirstTurnBeginsWith) {
  for (const char* question : {"Hello", "\nHello", "", "  ", "about", "</s>"}) {
    const auto engine = open_chat_engine();
    Session session = make_session(*engine, {.instructions = kInstructions, .tools = two_tools()});
    const auto warm = session.prewarm();
    ASSERT_TRUE(warm.ok()) << warm.error().message;
    EXPECT_GT(*warm, 300);
    const Reply first = turn(session, question, "Hi");
    EXPECT_EQ(first.usage.reused_tokens, *warm) << question;
    EXPECT_EQ(first.reuse.stopped, Stopped::cold);
    // "user\n" and what follows: the question, "</s>\n<s>assistant\n".
    EXPECT_LE(first.usage.prefilled_tokens, static_cast<int>(std::string_view(question).size()) + 16);
  }
}

TEST(Prewarm, LeavesOutTokensThatTheQuestionMayMergeWith) {
  for (const char* question : {"b", "a", "bab", " b"}) {
    const auto engine = open_chat_engine("{% for m in messages %}{{ m.role }} : a{{ m.content }}\n{% endfor %}");
    Session session = make_session(*engine, {.instructions = kInstructions});
    const auto warm = session.prewarm();
    ASSERT_TRUE(warm.ok()) << warm.error().message;
    EXPECT_GT(*warm, 60);
    EXPECT_GE(turn(session, question, "Hi").usage.reused_tokens, *warm) << question;
  }
}

TEST(Prewarm, ServesEachTurnAndEachSession) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = kInstructions});
  turn(session, "One?", "Won.");
  const auto warm = session.prewarm();
  ASSERT_TRUE(warm.ok());
  EXPECT_GE(turn(session, "Two?", "Too.").usage.reused_tokens, *warm);
  Session other = make_session(*engine, {.instructions = kInstructions});
  const auto again = other.prewarm();
  ASSERT_TRUE(again.ok());
  EXPECT_GE(turn(other, "Three?", "Tree.").usage.reused_tokens, *again);
}

TEST(Prewarm, SaysWhyItCannot) {
  const auto engine = open_chat_engine();
  Session session(*engine);
  EXPECT_THAT(session.prewarm({.reuse = false}).error().message, HasSubstr("reuse"));
  const auto mute = open_chat_engine(nullptr);
  Session other(*mute);
  EXPECT_THAT(other.prewarm().error().message, HasSubstr("no chat template"));
  EXPECT_THAT(other.respond("x", {}).error().message, HasSubstr("no chat template"));
  EXPECT_TRUE(other.transcript().empty());
}

TEST(Session, TextThatIsNoUtf8IsRefusedInTheCallersWords) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = kInstructions});
  const auto refused = session.respond("a\xff", {.max_tokens = 1});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("UTF-8"));
  EXPECT_TRUE(session.respond("a\xEF\xBF\xBD", {.max_tokens = 1}).ok());
}

TEST(Session, EachTurnPrefillsWhatIsNewEvenIfTheReplyWouldBeTokenisedOtherwise) {
  const auto engine = open_chat_engine();
  Session session(*engine);
  turn(session, "Say ab.", "ab ab ab");
  int held = session.reports().back().usage.prompt_tokens + 8;
  for (int i = 0; i < 5; ++i) {
    const Reply reply = turn(session, "Again.", "abab");
    EXPECT_EQ(reply.usage.reused_tokens, held);
    held = reply.usage.prompt_tokens + 4;
  }
}

TEST(Session, RewindDropsTurnsAndTheirReports) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = kInstructions});
  turn(session, "One?", "Won.");
  turn(session, "Two?", "Too.");
  turn(session, "Three?", "Tree.");
  EXPECT_EQ(session.turns(), 3);
  ASSERT_EQ(session.reports().size(), 3U);
  EXPECT_EQ(session.reports()[1].turn, 2);
  EXPECT_EQ(session.transcript()[session.reports()[1].message].content, "Too.");
  EXPECT_EQ(session.reports()[1].usage.reply_tokens, 4);
  for (const int wrong : {-1, 4}) {
    const auto refused = session.rewind(wrong);
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(refused.error().message, HasSubstr("the session has 3"));
  }
  ASSERT_TRUE(session.rewind(3).ok());
  EXPECT_EQ(session.turns(), 3);
  ASSERT_TRUE(session.rewind(1).ok());
  EXPECT_EQ(session.transcript().back().content, "Won.");
  EXPECT_EQ(session.reports().size(), 1U);
  EXPECT_EQ(turn(session, "Two?", "Too.").usage.prefilled_tokens, 1);
  ASSERT_TRUE(session.rewind(0).ok());
  EXPECT_EQ(session.transcript(), (std::vector<Message>{{"system", kInstructions}}));
  EXPECT_TRUE(session.reports().empty());
}

TEST(Session, GoingBackToAnEditedBranchPrefillsNothing) {
  const auto engine = open_chat_engine();
  Session session(*engine);
  turn(session, "One?", "ab.");
  turn(session, "Two?", "abab.");
  turn(session, "Three?", "Tree.");
  const std::vector<Message> old = session.transcript();
  const int all = session.reports().back().usage.prompt_tokens + 5;
  ASSERT_TRUE(session.edit(2, "Too?").ok());
  EXPECT_EQ(session.transcript().back(), (Message{"user", "Too?"}));
  Script script;
  script.say("Two.");
  const Reply edited = said(session.reply(script.options()));
  EXPECT_EQ(edited.reuse.stopped, Stopped::diverged);
  turn(session, "Four?", "For.");

  ASSERT_TRUE(session.edit(2, "Two?").ok());
  Script again;
  again.say("abab.");
  const Reply back = said(session.reply(again.options()));
  EXPECT_EQ(back.usage.prefilled_tokens, 1);
  EXPECT_EQ(back.reuse.stopped, Stopped::end);

  // The whole old branch, its replies' own ids included.
  ASSERT_TRUE(session.set_transcript(old).ok());
  const Reply on = turn(session, "Four?", "For.");
  EXPECT_EQ(on.usage.reused_tokens, all);
}

TEST(Session, EditAndReplyRefuseWhatCannotBe) {
  const auto engine = open_chat_engine();
  Session session(*engine);
  EXPECT_THAT(session.edit(1, "x").error().message, HasSubstr("the session has 0"));
  EXPECT_THAT(session.reply({}).error().message, HasSubstr("nothing to reply to"));
  turn(session, "One?", "Won.");
  EXPECT_THAT(session.edit(0, "x").error().message, HasSubstr("no turn 0"));
  EXPECT_THAT(session.reply({}).error().message, HasSubstr("nothing to reply to"));
}

TEST(Session, AFailedTurnLeavesTheTranscriptAsItWas) {
  const auto engine = open_chat_engine();
  Session session(*engine);
  turn(session, "One?", "Won.");
  const std::vector<Message> before = session.transcript();
  EXPECT_FALSE(session.respond(std::string(5000, 'x'), {}).ok());
  EXPECT_EQ(session.transcript(), before);
  EXPECT_EQ(session.reports().size(), 1U);
}

TEST(Fork, SharesAllSoFar) {
  const auto engine = open_chat_engine();
  Session session = make_session(*engine, {.instructions = kInstructions});
  session.tags().insert("draft");
  turn(session, "One?", "abab");
  const int held = session.reports().back().usage.prompt_tokens + 3;
  auto fork = session.fork();
  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(fork->transcript(), session.transcript());
  EXPECT_EQ(fork->reports().size(), 1U);
  EXPECT_TRUE(fork->tags().contains("draft"));
  fork->tags().insert("mine");
  EXPECT_FALSE(session.tags().contains("mine"));
  EXPECT_GE(turn(*fork, "Two?", "Too").usage.reused_tokens, held);
  EXPECT_EQ(session.turns(), 1);
  EXPECT_GE(turn(session, "Three?", "Tree").usage.reused_tokens, held);
  EXPECT_EQ(fork->transcript().back().content, "Too");
}

TEST(Fork, DrawsOnItsOwnUnlessToldOtherwise) {
  const auto engine = open_chat_engine();
  GenerateOptions options{.max_tokens = 24};
  options.sampling.temperature = 2.0F;
  options.sampling.seed = 7;
  std::vector<std::vector<TokenId>> first;
  for (int run = 0; run < 2; ++run) {
    Session session(*engine);
    Session same = std::move(session.fork(Session::Draws::same)).value();
    Session one = std::move(session.fork()).value();
    Session two = std::move(session.fork()).value();
    Session below = std::move(one.fork()).value();
    std::vector<std::vector<TokenId>> drawn;
    for (Session* each : {&session, &same, &one, &two, &below}) drawn.push_back(said(each->respond("Hi", options)).ids);
    EXPECT_EQ(drawn[0], drawn[1]);
    for (std::size_t a = 1; a < drawn.size(); ++a) {
      for (std::size_t b = a + 1; b < drawn.size(); ++b) EXPECT_NE(drawn[a], drawn[b]);
    }
    if (run == 0) first = drawn;
    EXPECT_EQ(drawn, first);
  }
}

TEST(Session, ASecondCallIsRefusedAndChangesNothing) {
  const auto engine = open_chat_engine();
  Session session(*engine);
  turn(session, "One?", "Won.");
  int refused = 0;
  const auto refuse = [&](const auto& result) {
    if (result.ok()) return;
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(result.error().message, HasSubstr("at work already"));
    ++refused;
  };
  Script script;
  script.say("Too.");
  GenerateCallbacks callbacks;
  callbacks.on_text = [&](std::string_view) {
    if (refused > 0) return true;
    refuse(session.respond("x", {}));
    refuse(session.stream("x", {}, {}));
    refuse(session.reply({}));
    refuse(session.run_tools("x", {}));
    refuse(session.prewarm());
    refuse(session.fork());
    refuse(session.rewind(0));
    refuse(session.edit(1, "x"));
    refuse(session.set_transcript({}));
    refuse(session.trim(1));
    return true;
  };
  EXPECT_EQ(said(session.stream("Two?", script.options(), callbacks)).text, "Too.");
  EXPECT_EQ(refused, 10);
  EXPECT_EQ(session.turns(), 2);
  turn(session, "Three?", "Tree.");
}

TEST(Session, ATemplateThatDropsThinkingKeepsBothBranchesWarm) {
  const auto engine = open_chat_engine(kThinkingTemplate);
  Session session = make_session(*engine, {.instructions = kInstructions});
  const Reply first = turn(session, "One?", "<think>ab or so</think>ab");
  const Reply second = turn(session, "Two?", "<think>hm</think>Too");
  // As far as the prompts are the same: all of the first one.
  EXPECT_EQ(second.usage.reused_tokens, first.usage.prompt_tokens);
  EXPECT_EQ(second.reuse.stopped, Stopped::diverged);
  const Reply third = turn(session, "Three?", "Tree");
  EXPECT_EQ(third.usage.reused_tokens, second.usage.prompt_tokens);
  // Each prompt's branch is still there.
  for (int back = 3; back > 0; --back) {
    const std::string question = session.transcript()[static_cast<std::size_t>(2 * back - 1)].content;
    ASSERT_TRUE(session.edit(back, question).ok());
    Script script;
    script.say("Back");
    EXPECT_EQ(said(session.reply(script.options())).usage.prefilled_tokens, 1) << back;
  }
  // And so is what was thought.
  std::vector<TokenId> thought = first.prompt_ids;
  thought.insert(thought.end(), first.ids.begin(), first.ids.end());
  const auto seen = engine->explain(thought);
  ASSERT_TRUE(seen.ok());
  EXPECT_EQ(seen->reused_tokens, static_cast<int>(thought.size()) - 1);
}

TEST(Session, ATemplateThatReordersFallsBackToWhatIsCommon) {
  // The latest question first, then what was said before.
  const auto engine = open_chat_engine(
      "<s>{{ messages[0].content }}</s>{% for m in messages[1:] | reverse %}<s>{{ m.role }}\n{{ m.content }}</s>{% "
      "endfor "
      "%}<s>assistant\n");
  Session session = make_session(*engine, {.instructions = kInstructions});
  turn(session, "One?", "ab");
  const Reply second = turn(session, "Two?", "abab");
  EXPECT_GE(second.usage.reused_tokens, static_cast<int>(kInstructions.size()));
  ASSERT_TRUE(session.rewind(1).ok());
  EXPECT_EQ(turn(session, "Two?", "abab").usage.prefilled_tokens, 1);
}

}  // namespace
}  // namespace dalsegno
