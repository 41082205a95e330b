#include "runtime/splice.hpp"

#include <gtest/gtest.h>

#include "runtime/session_test_support.hpp"

namespace dalsegno {
namespace {

using namespace dalsegno::testing;

class PromptMemoryTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::vector<TokenId> plain(const std::string& text) const {
    return engine_->tokenizer().encode(text, {.special = true, .bos = false}).value();
  }
  std::vector<TokenId> encode(const std::string& text) { return memory_.encode(engine_->tokenizer(), text).value(); }

  const std::unique_ptr<Engine> engine_ = open_chat_engine();
  PromptMemory memory_;
};

// Texts in which control tokens, parts of them and merges stand anywhere; each shares a beginning with the one before.
TEST_F(PromptMemoryTest, WithoutRepliesIdsAreThoseOfTheWholeText) {
  std::mt19937 random(3);
  const std::vector<std::string> parts{"a",  "b",  "ab", "<s>",      "</s>", "<", "s>",
                                       "</", "\n", " ",  "\xC3\xA9", "1",    "'s"};
  std::string text;
  for (int round = 0; round < 2000; ++round) {
    text.resize(text.size() < 2 ? 0 : random() % text.size());
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80U) != 0) text.pop_back();
    for (auto i = random() % 30; i > 0; --i) text += parts[random() % parts.size()];
    ASSERT_EQ(encode(text), plain(text)) << text;
  }
}

TEST_F(PromptMemoryTest, RepliesKeepTheIdsThatWereGenerated) {
  std::string text = "<s>user\nab</s><s>bot\n";
  std::vector<TokenId> expected = encode(text);
  for (int turn = 0; turn < 20; ++turn) {
    const std::vector<TokenId> reply{'a', 'b', 258};
    memory_.add_reply("abab", reply);
    expected.insert(expected.end(), reply.begin(), reply.end());
    const std::string more = "</s>\n<s>user\nab</s><s>bot\n";
    text += "abab" + more;
    const std::vector<TokenId> rest = plain(more);
    expected.insert(expected.end(), rest.begin(), rest.end());
    ASSERT_EQ(encode(text), expected);
  }
}

TEST_F(PromptMemoryTest, AReplyThatTheTemplateChangedIsTokenisedAsItIsRendered) {
  encode("<s>bot\n");
  memory_.add_reply("<think>ab</think>ab", std::vector<TokenId>{'<', 'x'});
  EXPECT_EQ(encode("<s>bot\nab</s>"), plain("<s>bot\nab</s>"));
}

TEST_F(PromptMemoryTest, BranchesAreRememberedAndForksShareThem) {
  const std::string begin = "<s>bot\n";
  encode(begin);
  memory_.add_reply("ab", std::vector<TokenId>{'a', 'b'});
  const std::vector<TokenId> first = encode(begin + "ab</s>one");
  ASSERT_NE(first, plain(begin + "ab</s>one"));
  PromptMemory fork = memory_;
  EXPECT_EQ(encode("other"), plain("other"));
  EXPECT_EQ(encode(begin + "ab</s>one"), first);
  EXPECT_EQ(fork.peek(engine_->tokenizer(), begin + "ab</s>one").value(), first);
}

}  // namespace
}  // namespace dalsegno
