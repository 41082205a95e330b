#include "text/vocabulary.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <limits>
#include <random>

#include "text/utf8.hpp"

namespace dalsegno {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::int64_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

// A spec that owns its texts.
class Handmade {
 public:
  VocabularySpec spec;

  TokenId add(std::string text, std::int64_t type = kNormal, float score = 0) {
    texts_.push_back(std::move(text));
    spec.tokens.push_back(texts_.back());
    spec.types.push_back(type);
    if (spec.model == "llama") spec.scores.push_back(score);
    return static_cast<TokenId>(spec.tokens.size() - 1);
  }
  void merge(std::string parts) {
    texts_.push_back(std::move(parts));
    spec.merges.push_back(texts_.back());
  }
  [[nodiscard]] std::unique_ptr<Vocabulary> make() const {
    auto made = Vocabulary::create(spec);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return made.ok() ? std::move(made).value() : nullptr;
  }
  [[nodiscard]] Error refused() const {
    auto made = Vocabulary::create(spec);
    EXPECT_FALSE(made.ok());
    return made.ok() ? Error{} : made.error();
  }

 private:
  std::deque<std::string> texts_;
};

std::string utf8(unsigned code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// Byte-level, GPT-2's stand-ins: token b is byte b, then the merges' results.
Handmade byte_level(std::string pre = "gpt-2") {
  Handmade made;
  made.spec.model = "gpt2";
  made.spec.pre = std::move(pre);
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool own = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    made.add(utf8(own ? byte : next++));
  }
  return made;
}

// SentencePiece with all byte tokens: <unk>, <s>, </s>, then byte b is token 3 + b.
constexpr TokenId kFirstByte = 3;
Handmade sentence_piece() {
  Handmade made;
  made.spec.model = "llama";
  made.spec.add_bos = false;
  made.spec.add_space_prefix = false;
  made.spec.unknown = made.add("<unk>", kUnknown);
  made.spec.bos = made.add("<s>", kControl);
  made.spec.eos = made.add("</s>", kControl);
  constexpr char kHex[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) made.add(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", kByte);
  return made;
}

std::vector<TokenId> encode(const Vocabulary& vocabulary, std::string_view text, EncodeOptions options = {}) {
  auto ids = vocabulary.encode(text, options);
  EXPECT_TRUE(ids.ok()) << (ids.ok() ? "" : ids.error().message);
  return ids.ok() ? std::move(ids).value() : std::vector<TokenId>{-1};
}

std::string decode(const Vocabulary& vocabulary, const std::vector<TokenId>& ids) {
  auto text = vocabulary.decode(ids);
  EXPECT_TRUE(text.ok());
  return text.ok() ? std::move(text).value() : "";
}

bool is_whole(std::string piece) {
  std::string text;
  const std::string before = piece;
  take_whole_characters(piece, text);
  return piece.empty() && text == before;
}

std::string stream(const Vocabulary& vocabulary, const std::vector<TokenId>& ids) {
  StreamDecoder decoder(vocabulary);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(is_whole(piece)) << piece;
    text += piece;
  }
  return text + decoder.finish();
}

TEST(ByteLevelVocabulary, MergesByRankInsidePieces) {
  Handmade made = byte_level();
  const TokenId he = made.add("he");
  const TokenId space_he = made.add("\xC4\xA0he");
  made.merge("h e");
  made.merge("\xC4\xA0 he");
  const auto vocabulary = made.make();
  EXPECT_THAT(encode(*vocabulary, "he he"), ElementsAre(he, space_he));
  EXPECT_THAT(encode(*vocabulary, "eh"), ElementsAre('e', 'h'));
  EXPECT_THAT(encode(*vocabulary, ""), IsEmpty());
  EXPECT_EQ(decode(*vocabulary, {he, space_he}), "he he");
}

TEST(ByteLevelVocabulary, EveryByteComesBack) {
  const auto vocabulary = byte_level().make();
  std::string text;
  for (unsigned code = 0; code < 0x800; ++code) text += utf8(code);
  EXPECT_EQ(decode(*vocabulary, encode(*vocabulary, text)), text);
  EXPECT_EQ(stream(*vocabulary, encode(*vocabulary, text)), text);
}

TEST(ByteLevelVocabulary, SpecialsOnlyWhereAsked) {
  Handmade made = byte_level();
  const TokenId start = made.add("<|im_start|>", kControl);
  const TokenId table = made.add("<table>", kUserDefined);
  const auto vocabulary = made.make();
  EXPECT_EQ(encode(*vocabulary, "<|im_start|>").size(), 12U);
  EXPECT_THAT(encode(*vocabulary, "a<|im_start|>", {.special = true}), ElementsAre('a', start));
  EXPECT_THAT(encode(*vocabulary, "<table>"), ElementsAre(table));
  EXPECT_EQ(decode(*vocabulary, {start, 'a', table}), "a<table>");
  EXPECT_EQ(vocabulary->bytes(start), "");
  EXPECT_EQ(vocabulary->token_text(start), "<|im_start|>");
  EXPECT_TRUE(vocabulary->is_control(start));
  EXPECT_FALSE(vocabulary->is_control(table));
}

TEST(ByteLevelVocabulary, AnEmptySpecialIsNeverFound) {
  Handmade made = byte_level();
  made.add("", kControl);
  made.add("", kUserDefined);
  EXPECT_THAT(encode(*made.make(), "ab", {.special = true}), ElementsAre('a', 'b'));
}

TEST(ByteLevelVocabulary, TheLongestSpecialWins) {
  Handmade made = byte_level();
  made.add("<a>", kControl);
  const TokenId longer = made.add("<a><b>", kControl);
  EXPECT_THAT(encode(*made.make(), "<a><b>", {.special = true}), ElementsAre(longer));
}

TEST(ByteLevelVocabulary, BeginsAndEndsAsTheFileSays) {
  Handmade made = byte_level();
  const TokenId mark = made.add("<mark>", kControl);
  made.spec.bos = mark;
  made.spec.eos = mark;
  EXPECT_THAT(encode(*made.make(), "a", {.bos = true}), ElementsAre('a'));
  made.spec.add_bos = true;
  made.spec.add_eos = true;
  EXPECT_THAT(encode(*made.make(), "a", {.bos = true}), ElementsAre(mark, 'a', mark));
  EXPECT_THAT(encode(*made.make(), "a"), ElementsAre('a'));
  made.spec.add_bos.reset();
  made.spec.add_eos.reset();
  made.spec.pre = "llama-bpe";
  EXPECT_THAT(encode(*made.make(), "a", {.bos = true}), ElementsAre(mark, 'a'));
}

TEST(ByteLevelVocabulary, IgnoresMergesWhereTheRuleSaysSo) {
  Handmade made = byte_level("llama-bpe");
  const TokenId whole = made.add("xyz");
  EXPECT_THAT(encode(*made.make(), "xyz"), ElementsAre(whole));
  made.spec.pre = "gpt-2";
  EXPECT_THAT(encode(*made.make(), "xyz"), ElementsAre('x', 'y', 'z'));
}

TEST(ByteLevelVocabulary, Qwen2ComposesFirst) {
  const auto vocabulary = byte_level("qwen2").make();
  EXPECT_EQ(decode(*vocabulary, encode(*vocabulary, "e\xCC\x81")), "\xC3\xA9");
}

TEST(ByteLevelVocabulary, IllFormedTextBecomesReplacements) {
  const auto vocabulary = byte_level().make();
  EXPECT_EQ(encode(*vocabulary, "a\xFF\xE2\x96z"), encode(*vocabulary, "a\xEF\xBF\xBD\xEF\xBF\xBDz"));
}

TEST(ByteLevelVocabulary, StreamsWholeCharactersOnly) {
  const auto vocabulary = byte_level().make();
  StreamDecoder decoder(*vocabulary);
  for (const TokenId id : {0xF0, 0x9F, 0x98}) EXPECT_EQ(decoder.push(id), "");
  EXPECT_EQ(decoder.push(0x80), "\xF0\x9F\x98\x80");
  for (const TokenId id : {0xE2, 0x96}) EXPECT_EQ(decoder.push(id), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(ByteLevelVocabulary, StreamsWhatItDecodes) {
  const auto vocabulary = byte_level().make();
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<TokenId> ids(40);
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % 256);
    EXPECT_EQ(stream(*vocabulary, ids), decode(*vocabulary, ids));
  }
}

TEST(ByteLevelVocabulary, NamesTheBytesItLacks) {
  Handmade made = byte_level();
  EXPECT_THAT(made.make()->unusual(), IsEmpty());
  made.spec.tokens[4] = "aaaa";
  made.spec.tokens[0xF5] = "bbbb";
  const auto vocabulary = made.make();
  EXPECT_THAT(vocabulary->unusual(), ElementsAre("The vocabulary has no token for 2 of the 256 bytes (04 f5); "
                                                 "text that needs one of them loses it."));
  EXPECT_THAT(encode(*vocabulary, "!\x04!"), ElementsAre('!', '!'));
}

TEST(ByteLevelVocabulary, RefusesARuleItDoesNotKnow) {
  const Error error = byte_level("tekken").refused();
  EXPECT_EQ(error.code, ErrorCode::unsupported);
  EXPECT_THAT(error.message, HasSubstr("\"tekken\""));
}

TEST(ByteLevelVocabulary, KnowsEveryNamedRuleAndItsDefault) {
  for (const char* pre : {"smollm", "gpt-2", "llama-bpe", "qwen2", "default"})
    EXPECT_NE(byte_level(pre).make(), nullptr);
  Handmade made = byte_level();
  made.spec.pre.reset();
  EXPECT_NE(made.make(), nullptr);
}

TEST(ByteLevelVocabulary, RefusesMergesThatAreNotTwoParts) {
  for (const char* bad : {"a", "a b c", " a", "a ", ""}) {
    Handmade made = byte_level();
    made.merge(bad);
    EXPECT_EQ(made.refused().code, ErrorCode::corrupt);
    EXPECT_THAT(made.refused().message, HasSubstr("merge 0")) << bad;
  }
}

TEST(ByteLevelVocabulary, RefusesMergesOfUnknownParts) {
  for (const char* bad : {"zz q", "q zz", "a b"}) {  // "ab" is no token
    Handmade made = byte_level();
    made.merge(bad);
    EXPECT_EQ(made.refused().code, ErrorCode::corrupt) << bad;
    EXPECT_THAT(made.refused().message, HasSubstr("merges")) << bad;
  }
}

TEST(ByteLevelVocabulary, RefusesANormalTokenThatStandsForNoBytes) {
  for (const char* bad : {" ", "\n", "\xE2\x96\x81", "\xC5\x84", "\x80", "\xC4"}) {  // U+0144 is past the last stand-in
    Handmade made = byte_level();
    made.add(bad);
    EXPECT_EQ(made.refused().code, ErrorCode::corrupt) << bad;
    EXPECT_THAT(made.refused().message, HasSubstr("token 256")) << bad;
  }
}

TEST(Vocabulary, RefusesWhatContradictsItself) {
  Handmade made = byte_level();
  made.spec.types.pop_back();
  EXPECT_THAT(made.refused().message, HasSubstr("tokenizer.ggml.token_type has 255 entries for 256 tokens"));
  made = byte_level();
  made.spec.types[3] = 9;
  EXPECT_THAT(made.refused().message, HasSubstr("token 3 has the type 9"));
  for (const std::int64_t id : {std::int64_t{256}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()}) {
    for (auto field : {&VocabularySpec::bos, &VocabularySpec::eos, &VocabularySpec::eot, &VocabularySpec::unknown}) {
      made = byte_level();
      made.spec.*field = id;
      EXPECT_EQ(made.refused().code, ErrorCode::corrupt);
    }
  }
  made = byte_level();
  made.spec.model = "bert";
  EXPECT_EQ(made.refused().code, ErrorCode::unsupported);
  EXPECT_EQ(Handmade().refused().code, ErrorCode::unsupported);
  made.spec = {};
  made.spec.model = "gpt2";
  EXPECT_EQ(made.refused().code, ErrorCode::corrupt);
}

TEST(Vocabulary, RefusesTextThatIsNotUtf8) {
  Handmade made = byte_level();
  made.add("\xFF", kControl);
  EXPECT_THAT(made.refused().message, HasSubstr("token 256 is not UTF-8"));
}

TEST(Vocabulary, DecodesOnlyWhatItHolds) {
  const auto vocabulary = byte_level().make();
  for (const TokenId id : {-1, 256, std::numeric_limits<TokenId>::max()}) {
    EXPECT_EQ(vocabulary->decode(std::vector<TokenId>{id}).error().code, ErrorCode::invalid_argument);
  }
}

TEST(Vocabulary, KnowsWhatEndsATurn) {
  Handmade made = byte_level();
  const TokenId eos = made.add("<mine>", kControl);
  const TokenId eot = made.add("<turn>", kControl);
  const TokenId known = made.add("<|im_end|>", kControl);
  const TokenId start = made.add("<|im_start|>", kControl);
  const TokenId plain = made.add("<|eot_id|>", kUserDefined);
  made.spec.eos = eos;
  made.spec.eot = eot;
  const auto vocabulary = made.make();
  for (const TokenId id : {eos, eot, known}) EXPECT_TRUE(vocabulary->is_end_of_turn(id)) << id;
  for (const TokenId id : {start, plain, TokenId{'a'}}) EXPECT_FALSE(vocabulary->is_end_of_turn(id)) << id;
}

TEST(SentencePieceVocabulary, MergesTheBestScoreFirst) {
  Handmade made = sentence_piece();
  const TokenId a = made.add("a", kNormal, -10), b = made.add("b", kNormal, -11), c = made.add("c", kNormal, -12);
  const TokenId ab = made.add("ab", kNormal, -2);
  const TokenId bc = made.add("bc", kNormal, -1);
  const auto vocabulary = made.make();
  EXPECT_THAT(encode(*vocabulary, "abc"), ElementsAre(a, bc));
  EXPECT_THAT(encode(*vocabulary, "abab"), ElementsAre(ab, ab));
  EXPECT_THAT(encode(*vocabulary, "cb"), ElementsAre(c, b));
  EXPECT_THAT(encode(*vocabulary, ""), IsEmpty());
}

TEST(SentencePieceVocabulary, TiesGoLeft) {
  Handmade made = sentence_piece();
  const TokenId a = made.add("a");
  const TokenId aa = made.add("aa", kNormal, -1);
  EXPECT_THAT(encode(*made.make(), "aaa"), ElementsAre(aa, a));
}

TEST(SentencePieceVocabulary, SpellsWhatItLacksInBytes) {
  const auto vocabulary = sentence_piece().make();
  const std::vector<TokenId> ids = encode(*vocabulary, "\xC3\xA9");
  EXPECT_THAT(ids, ElementsAre(kFirstByte + 0xC3, kFirstByte + 0xA9));
  EXPECT_EQ(decode(*vocabulary, ids), "\xC3\xA9");
  EXPECT_THAT(vocabulary->unusual(), IsEmpty());
}

TEST(SentencePieceVocabulary, OneUnknownForARunOfThem) {
  Handmade made;
  made.spec.model = "llama";
  made.spec.add_space_prefix = false;
  made.spec.unknown = made.add("<unk>", kUnknown);
  const TokenId a = made.add("a");
  const auto vocabulary = made.make();
  EXPECT_THAT(encode(*vocabulary, "xya"), ElementsAre(0, a));
  EXPECT_THAT(encode(*vocabulary, "axay"), ElementsAre(a, 0, a, 0));
  EXPECT_THAT(vocabulary->unusual().at(0), HasSubstr("255 of the 256 bytes"));
  made.spec.unknown.reset();
  EXPECT_THAT(encode(*made.make(), "xaya"), ElementsAre(a, a));
}

TEST(SentencePieceVocabulary, SpacesAreMarks) {
  Handmade made = sentence_piece();
  const TokenId a = made.add("a");
  const TokenId space_a = made.add(
      "\xE2\x96\x81"
      "a",
      kNormal, -1);
  const auto vocabulary = made.make();
  EXPECT_THAT(encode(*vocabulary,
                     "a a\xE2\x96\x81"
                     "a"),
              ElementsAre(a, space_a, space_a));
  EXPECT_EQ(decode(*vocabulary, {a, space_a}), "a a");
  EXPECT_EQ(vocabulary->bytes(space_a), " a");
}

TEST(SentencePieceVocabulary, TokensMayReachAcrossASpace) {
  Handmade made = sentence_piece();
  made.add("b");
  const TokenId across = made.add("a\xE2\x96\x81", kNormal, -1);
  made.add(
      "\xE2\x96\x81"
      "b",
      kNormal, -2);
  const TokenId b = made.add("b", kNormal, 0);
  EXPECT_THAT(encode(*made.make(), "a b"), ElementsAre(across, b));
}

TEST(SentencePieceVocabulary, ASpacePrefixGoesAndComes) {
  Handmade made = sentence_piece();
  made.spec.add_space_prefix.reset();
  const TokenId space_a = made.add(
      "\xE2\x96\x81"
      "a",
      kNormal, -1);
  made.add("a");
  const auto vocabulary = made.make();
  const std::vector<TokenId> ids = encode(*vocabulary, "a a");
  EXPECT_THAT(ids, ElementsAre(space_a, space_a));
  EXPECT_EQ(decode(*vocabulary, ids), "a a");
  EXPECT_EQ(stream(*vocabulary, ids), "a a");
  EXPECT_THAT(encode(*vocabulary, ""), IsEmpty());
  EXPECT_THAT(encode(*vocabulary, "<s>a", {.special = true}), ElementsAre(1, space_a));
}

TEST(SentencePieceVocabulary, AddsBosUnlessTold) {
  Handmade made = sentence_piece();
  made.spec.add_bos.reset();
  EXPECT_THAT(encode(*made.make(), "", {.bos = true}), ElementsAre(1));
  EXPECT_THAT(encode(*sentence_piece().make(), "", {.bos = true}), IsEmpty());
}

TEST(SentencePieceVocabulary, UserDefinedTokensAreLeftmostLongest) {
  Handmade made = sentence_piece();
  const TokenId two = made.add("  ", kUserDefined);
  const TokenId three = made.add("   ", kUserDefined);
  const TokenId space = made.add("\xE2\x96\x81");
  const auto vocabulary = made.make();
  EXPECT_THAT(encode(*vocabulary, "        "), ElementsAre(three, three, two));
  EXPECT_THAT(encode(*vocabulary, "    "), ElementsAre(three, space));
  EXPECT_EQ(decode(*vocabulary, {three, two}), "     ");
}

TEST(SentencePieceVocabulary, TokensThatDoNotMergeAreNeverFoundInText) {
  Handmade made = sentence_piece();
  const auto vocabulary = made.make();
  EXPECT_EQ(encode(*vocabulary, "<0x41>").size(), 6U);
  EXPECT_EQ(encode(*vocabulary, "<s>").size(), 3U);
  EXPECT_THAT(encode(*vocabulary, "<s>", {.special = true}), ElementsAre(1));
}

TEST(SentencePieceVocabulary, UnusedTokensAreSplitAgain) {
  Handmade made = sentence_piece();
  made.add("a");
  made.add("b");
  const TokenId c = made.add("c");
  const TokenId ab = made.add("ab", kNormal, -1);
  made.add("abc", kUnused, -2);
  EXPECT_THAT(encode(*made.make(), "abc"), ElementsAre(ab, c));
}

TEST(SentencePieceVocabulary, RefusesBadScoresAndByteTokens) {
  Handmade made = sentence_piece();
  made.spec.scores.pop_back();
  EXPECT_THAT(made.refused().message, HasSubstr("tokenizer.ggml.scores has 258 entries for 259 tokens"));
  made = sentence_piece();
  made.spec.scores[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(made.refused().message, HasSubstr("token 5"));
  for (const char* bad : {"<0x1>", "<0xGG>", "<0x001>", "0x01", "<0x-1>"}) {
    made = sentence_piece();
    made.add(bad, kByte);
    EXPECT_EQ(made.refused().code, ErrorCode::corrupt) << bad;
  }
}

TEST(Vocabulary, LongTextsWithoutSpacesAreNotSpecial) {
  Handmade gpt2 = byte_level("llama-bpe");
  gpt2.add("aa");
  gpt2.merge("a a");
  Handmade llama = sentence_piece();
  llama.add("a");
  llama.add("aa", kNormal, -1);
  llama.add("\xE2\x96\x81\xE2\x96\x81", kNormal, -1);
  for (const Handmade* made : {&gpt2, &llama}) {
    const auto vocabulary = made->make();
    for (const char c : {'a', ' ', 'b'}) {
      const std::string text(400'000, c);
      EXPECT_EQ(decode(*vocabulary, encode(*vocabulary, text)), text);
    }
  }
}

}  // namespace
}  // namespace dalsegno
