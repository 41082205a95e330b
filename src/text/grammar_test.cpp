#include "text/grammar.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <regex>
#include <set>
#include <string>

namespace dalsegno {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Byte-level: token b is byte b, then the results of a few merges, then control tokens.
class Grammar : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::deque<std::string> texts;
    VocabularySpec spec;
    spec.model = "gpt2";
    spec.pre = "gpt-2";
    unsigned next = 0x100;
    const auto add = [&](std::string text, std::int64_t type) {
      texts.push_back(std::move(text));
      spec.tokens.push_back(texts.back());
      spec.types.push_back(type);
      return static_cast<TokenId>(spec.tokens.size() - 1);
    };
    const auto utf8 = [](unsigned code) {
      if (code < 0x80) return std::string{static_cast<char>(code)};
      return std::string{static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    };
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool own = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      add(utf8(own ? byte : next++), 1);
    }
    for (const char* merge : {"a b", "ab c", "n a", "na m", "nam e", "\" :", "t r", "u e", "tr ue", "{ \""}) {
      texts.emplace_back(merge);
      spec.merges.push_back(texts.back());
      std::string joined = merge;
      joined.erase(joined.find(' '), 1);
      add(joined, 1);
    }
    spec.bos = add("<|im_start|>", 3);
    end_ = add("<|im_end|>", 3);
    spec.eos = end_;
    auto made = Vocabulary::create(spec);
    ASSERT_TRUE(made.ok()) << made.error().message;
    vocabulary_ = std::move(made).value();
    auto grammars = Grammars::create(*vocabulary_);
    ASSERT_TRUE(grammars.ok()) << grammars.error().message;
    grammars_ = std::move(grammars).value();
  }
  static void TearDownTestSuite() {
    grammars_.reset();
    vocabulary_.reset();
  }

  static Matcher compile(const Constraint& constraint) {
    auto made = grammars_->compile(constraint);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return std::move(made).value();
  }
  // The sentence.
  static std::string refusal(const Constraint& constraint) {
    auto made = grammars_->compile(constraint);
    EXPECT_FALSE(made.ok()) << constraint.text.substr(0, 60) << constraint.text.size();
    if (made.ok()) return "";
    EXPECT_EQ(made.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(made.error().message, Not(HasSubstr("\n")));
    EXPECT_LT(made.error().message.size(), 600U);
    return made.error().message;
  }
  static Matcher clone(const Matcher& matcher) {
    auto copy = matcher.clone();
    EXPECT_TRUE(copy.ok());
    return std::move(copy).value();
  }
  static std::vector<TokenId> allowed(Matcher& matcher) {
    TokenMask mask(vocabulary_->size());
    const auto state = matcher.mask(mask);
    EXPECT_TRUE(state.ok()) << (state.ok() ? "" : state.error().message);
    std::vector<TokenId> ids;
    for (TokenId id = 0; id < vocabulary_->size(); ++id) {
      if (mask.has(id)) ids.push_back(id);
    }
    EXPECT_EQ(static_cast<int>(ids.size()), mask.count());
    return ids;
  }
  // Follows what is allowed at random until the text ends; where a token is forced, it is the only one allowed.
  static std::string walk(Matcher matcher, std::mt19937& random) {
    std::string text;
    for (int step = 0; step < 400; ++step) {
      const auto forced = matcher.forced();
      EXPECT_TRUE(forced.ok());
      const std::vector<TokenId> ids = allowed(matcher);
      if (forced.ok() && forced.value()) {
        EXPECT_EQ(ids, std::vector<TokenId>{*forced.value()});
      }
      if (ids.empty()) return "dead end after " + text;
      const TokenId id = ids[random() % ids.size()];
      if (id == end_) {
        EXPECT_TRUE(matcher.accepts().value());
        return text;
      }
      text += vocabulary_->bytes(id);
      const auto state = matcher.consume({&id, 1});
      EXPECT_TRUE(state.ok()) << state.error().message;
      if (!state.ok() || state.value() == TextState::complete) return text;
    }
    return "no end of " + text;
  }

  static inline std::unique_ptr<Vocabulary> vocabulary_;
  static inline std::unique_ptr<Grammars> grammars_;
  static inline TokenId end_ = 0;
};

TEST_F(Grammar, AWalkThroughARegexMatchesIt) {
  std::mt19937 random(1);
  for (const std::string pattern :
       {"[a-c]{3}-[0-9]{2}", "(ab|ba)*c", "x?y+(true|name)", "a{2,5}", "(a|b)(\"|')z", "abcabc(name){2}", ""}) {
    const Matcher matcher = compile(Constraint::regex(pattern));
    for (int i = 0; i < 50; ++i) {
      const std::string text = walk(clone(matcher), random);
      if (text.starts_with("no end of")) continue;
      EXPECT_TRUE(std::regex_match(text, std::regex(pattern))) << pattern << " gave " << text;
    }
  }
}

TEST_F(Grammar, EveryChoiceCanBeReachedAndNothingElse) {
  const std::vector<std::string> texts = {"yes", "no", "name", "a.b*c", "two\nlines", "caf\xC3\xA9", "not"};
  const Matcher matcher = compile(Constraint::one_of(texts));
  std::mt19937 random(2);
  std::set<std::string> seen;
  for (int i = 0; i < 300; ++i) seen.insert(walk(clone(matcher), random));
  EXPECT_EQ(seen, std::set<std::string>(texts.begin(), texts.end()));
}

TEST_F(Grammar, JsonByASchemaIsForcedInTheTokenizersTokens) {
  const Matcher matcher = compile(Constraint::json_schema(
      R"({"x-guidance":{"whitespace_flexible":false},"type":"object","properties":{"name":{"const":true}},
          "required":["name"],"additionalProperties":false})"));
  Matcher at = clone(matcher);
  std::vector<std::string> tokens;
  for (;;) {
    const auto forced = at.forced();
    ASSERT_TRUE(forced.ok());
    if (!forced.value()) break;
    tokens.emplace_back(vocabulary_->bytes(*forced.value()));
    ASSERT_TRUE(at.consume({&*forced.value(), 1}).ok());
  }
  EXPECT_THAT(tokens, ::testing::ElementsAre("{\"", "name", "\":", "true", "}"));
  EXPECT_TRUE(at.accepts().value());
}

TEST_F(Grammar, CopiesGoTheirOwnWays) {
  Matcher first = compile(Constraint::regex("[ab]{2}"));
  const TokenId a = 'a';
  ASSERT_EQ(first.consume({&a, 1}).value(), TextState::open);
  Matcher second = clone(first);
  ASSERT_EQ(first.consume({&a, 1}).value(), TextState::complete);
  EXPECT_EQ(allowed(first), std::vector<TokenId>{end_});
  EXPECT_EQ(allowed(second), (std::vector<TokenId>{'a', 'b'}));
}

TEST_F(Grammar, ATokenThatIsNotAllowedIsRefused) {
  Matcher matcher = compile(Constraint::regex("[ab]{2}"));
  const TokenId c = 'c';
  EXPECT_FALSE(matcher.consume({&c, 1}).ok());
  TokenMask mask(vocabulary_->size());
  EXPECT_FALSE(matcher.mask(mask).ok());
}

TEST_F(Grammar, ALarkGrammarNests) {
  const Matcher matcher = compile(Constraint::lark("start: pair\npair: \"(\" pair? \")\"\n"));
  std::mt19937 random(3);
  for (int i = 0; i < 50; ++i) {
    const std::string text = walk(clone(matcher), random);
    const std::size_t half = text.size() / 2;
    EXPECT_EQ(text, std::string(half, '(') + std::string(half, ')'));
  }
}

TEST_F(Grammar, GbnfIsUnderstood) {
  const Matcher matcher =
      compile(Constraint::lark("# a list\nroot ::= \"[\" item (\",\" item)* \"]\"\nitem ::= [a-c] | \"\\x41\" "
                               "more{2,3}\nmore ::= [^\\x00-c\\]h-\\U0010ffff]\n"));
  std::mt19937 random(4);
  for (int i = 0; i < 50; ++i) {
    const std::string text = walk(clone(matcher), random);
    const std::regex form("\\[([a-c]|A[d-g]{2,3})(,([a-c]|A[d-g]{2,3}))*\\]");
    EXPECT_TRUE(std::regex_match(text, form)) << text;
  }
  EXPECT_THAT(refusal(Constraint::lark("root ::= $\n")), HasSubstr("line 1 is not GBNF"));
  EXPECT_THAT(refusal(Constraint::lark("root ::= (\"a\"\n")), HasSubstr("grammar cannot be used"));
}

TEST_F(Grammar, ControlTokensAreAllowedByNameAlone) {
  Matcher matcher = compile(Constraint::regex("<\\|im_start\\|>"));
  for (const TokenId id : allowed(matcher)) EXPECT_FALSE(vocabulary_->is_control(id));
  Matcher named = compile(Constraint::lark("start: <|im_start|> \"x\"\n"));
  EXPECT_EQ(allowed(named).size(), 1U);
  EXPECT_TRUE(vocabulary_->is_control(allowed(named).front()));
}

TEST_F(Grammar, WhatCannotBeUsedIsRefusedWithASentence) {
  EXPECT_THAT(refusal(Constraint::json_schema("{")), HasSubstr("the JSON schema cannot be used: it is not JSON"));
  EXPECT_THAT(refusal(Constraint::json_schema(R"({"not":{}})")), HasSubstr("no value is valid"));
  EXPECT_THAT(refusal(Constraint::json_schema(R"({"type":"array","uniqueItems":true,"minItems":2})")),
              HasSubstr("uniqueItems"));
  EXPECT_THAT(refusal(Constraint::json_schema(R"({"$ref":"http://example.com/other.json"})")), HasSubstr("example"));
  EXPECT_THAT(refusal(Constraint::json_schema(R"({"$ref":"#/$defs/none"})")), HasSubstr("none"));
  EXPECT_THAT(refusal(Constraint::regex("(")), HasSubstr("the regular expression cannot be used"));
  EXPECT_THAT(refusal(Constraint::regex("(?=a)b")), HasSubstr("it looks around at character 1"));
  EXPECT_THAT(refusal(Constraint::regex("[[:^space:]")), HasSubstr("regular expression"));
  for (const Constraint& empty : {Constraint::json_schema(R"({"$ref":"#"})"), Constraint::regex(R"([^\s\S])"),
                                  Constraint::lark("start: start\n")}) {
    EXPECT_THAT(refusal(empty), HasSubstr("no text matches it"));
  }
  EXPECT_THAT(refusal(Constraint::lark("start: missing\n")), HasSubstr("missing"));
  EXPECT_THAT(refusal(Constraint::lark("")), HasSubstr("grammar"));
  EXPECT_THAT(refusal(Constraint::one_of({})), HasSubstr("at least one"));
  EXPECT_THAT(refusal(Constraint::regex("\xFF")), HasSubstr("UTF-8"));
}

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

TEST_F(Grammar, BombsAreRefused) {
  refusal(Constraint::regex(repeated("(", 60000) + repeated(")", 60000)));
  refusal(Constraint::regex(repeated("(", 30000) + repeated(")", 30000)));
  refusal(Constraint::regex(repeated("(", 30000) + "a" + repeated(")", 30000)));
  refusal(Constraint::json_schema(repeated("[", 100000)));
  EXPECT_THAT(refusal(Constraint::json_schema(repeated(R"({"items":)", 100000) + "{}" + repeated("}", 100000))),
              HasSubstr("nested deeper"));
  refusal(Constraint::json_schema(std::string(2 << 20, ' ') + "{}"));
  refusal(Constraint::lark("start: " + repeated("(", 60000) + "\"a\"" + repeated(")", 60000) + "\n"));
  refusal(Constraint::lark("start: a\n" + repeated("a: a a\n", 1000)));
  refusal(Constraint::regex(repeated("[", 16000)));
  refusal(Constraint::regex(repeated("(", 8000) + repeated(")", 8000)));
  refusal(Constraint::regex(repeated("(?i:", 4000)));
  // Alternatives that multiply.
  std::string options, parts;
  for (int i = 0; i < 10; ++i) {
    options +=
        (i > 0 ? "," : "") + std::string(R"({"properties":{"p)") + std::to_string(i) + R"(":{"type":"string"}}})";
  }
  for (int i = 0; i < 10; ++i) parts += (i > 0 ? "," : "") + (R"({"anyOf":[)" + options + "]}");
  refusal(Constraint::json_schema(R"({"allOf":[)" + parts + "]}"));
  // Alternatives that multiply where they are taken apart.
  std::string definitions;
  for (int i = 0; i < 40; ++i) {
    const std::string next = "{\"$ref\":\"#/$defs/d" + std::to_string(i + 1) + "\"}";
    definitions += "\"d" + std::to_string(i) + R"(":{"oneOf":[)" + next + R"(,{"not":)" + next + "}]},";
  }
  refusal(Constraint::json_schema(R"({"$ref":"#/$defs/d0","$defs":{)" + definitions + R"("d40":{"type":"string"}}})"));
  refusal(Constraint::json_schema(
      R"({"type":"string","allOf":[{"pattern":"(a|b)*a(a|b){200}"},{"pattern":"(a|b)*b(a|b){300}"},
          {"pattern":"(a|b)*a(a|b){400}"}]})"));
  refusal(
      Constraint::json_schema(R"({"type":"string","pattern":"(a|b)*a(a|b){200}","not":{"pattern":"b(a|b){200}"}})"));
  // Lists and objects of many members.
  EXPECT_THAT(refusal(Constraint::json_schema(R"({"enum":[)" + repeated("\"x\",", 100000) + "0]}")),
              HasSubstr("5000 are the limit"));
  EXPECT_THAT(refusal(Constraint::json_schema(R"({"enum":[)" + repeated("[1,2,3],", 4000) + "0]}")),
              HasSubstr("more than 10000 parts"));
  EXPECT_THAT(refusal(Constraint::one_of(std::vector<std::string>(100000, "x"))), HasSubstr("10000 are the limit"));
  EXPECT_THAT(refusal(Constraint::one_of({repeated("word ", 200000)})), HasSubstr("bytes"));
  for (const char* pattern :
       {"(a?){200}a{200}", "(a{1,1000}){1,1000}", "((a{1,100}b?){1,100}c?){1,100}", "a{100000}"}) {
    EXPECT_THAT(refusal(Constraint::regex(pattern)), HasSubstr("repetitions"));
  }
}

bool accepts(Matcher matcher, const std::string& text) {
  for (const char c : text) {
    const TokenId byte = static_cast<unsigned char>(c);
    if (!matcher.consume({&byte, 1}).ok()) return false;
  }
  return matcher.accepts().value();
}

TEST_F(Grammar, NothingCountsBesideAReferenceUpToDraft7) {
  const auto schema = [](const std::string& rest) {
    return Constraint::json_schema(R"({"$schema":"http://json-schema.org/draft-07/schema#","$id":"http://x/r",)" +
                                   rest + "}");
  };
  Matcher anchors = compile(schema(R"("definitions":{"y":{"$id":"#foo","type":"integer"},
      "x":{"$id":"#foo","$ref":"#/definitions/any"},"any":{}},"allOf":[{"$ref":"#foo"}])"));
  EXPECT_TRUE(accepts(clone(anchors), "1"));
  EXPECT_FALSE(accepts(clone(anchors), "\"a\""));
  Matcher addresses = compile(schema(R"("definitions":{"b":{"$id":"b.json","type":"integer"},"any":{}},
      "allOf":[{"$ref":"#/definitions/any","allOf":[{"$id":"http://x/b.json"}]},{"$ref":"b.json"}])"));
  EXPECT_TRUE(accepts(clone(addresses), "1"));
  EXPECT_FALSE(accepts(clone(addresses), "\"a\""));
  const Matcher apart = compile(schema(R"("definitions":{"any":{}},"oneOf":[
      {"$ref":"#/definitions/any","type":"string"},{"type":"integer"}])"));
  EXPECT_FALSE(accepts(clone(apart), "1"));
  EXPECT_TRUE(accepts(clone(apart), "\"a\""));
  EXPECT_THAT(refusal(schema(R"("definitions":{"b":{"$id":"b.json","type":"integer"},"any":{}},
      "allOf":[{"$ref":"#/definitions/any","definitions":{"c":{"$id":"b.json"}}},{"$ref":"b.json"}])")),
              HasSubstr("two schemas in it have the identifier \"http://x/b.json\""));
}

TEST_F(Grammar, AReferenceIsRelativeToTheSchemaItStandsIn) {
  const Matcher matcher = compile(Constraint::json_schema(
      R"({"$id":"http://x/root","$defs":{"u":{},"o":{"$id":"other.json","$defs":{"t":{"$ref":"#/$defs/u"},
          "u":{"type":"integer"}}}},"$ref":"other.json#/$defs/t"})"));
  EXPECT_TRUE(accepts(clone(matcher), "1"));
  EXPECT_FALSE(accepts(clone(matcher), "\"a\""));
}

TEST_F(Grammar, NumbersThatCannotBeToldApartAreRefused) {
  for (const char* schema :
       {R"({"type":"integer","not":{"const":9007199254740993},"minimum":9007199254740992})",
        R"({"type":"integer","minimum":9007199254740993})", R"({"type":"integer","exclusiveMinimum":9007199254740992})",
        R"({"const":9007199254740993})", R"({"enum":[[9007199254740993]]})",
        R"({"const":123456789012345678901234567890})", R"({"enum":[18446744073709551617]})",
        R"({"type":"number","maximum":9223372036854775807})", R"({"type":"integer","minimum":18446744073709551615})"}) {
    EXPECT_THAT(refusal(Constraint::json_schema(schema)), HasSubstr("too large to be told")) << schema;
  }
  const Matcher whole = compile(Constraint::json_schema(
      R"({"type":"integer","minimum":-9007199254740992,"maximum":9223372036854775807,"default":9007199254740993})"));
  for (const char* good : {"9223372036854775807", "-9007199254740992", "9007199254740993"}) {
    EXPECT_TRUE(accepts(clone(whole), good)) << good;
  }
  for (const char* bad : {"9223372036854775808", "-9007199254740993", "18446744073709551616"}) {
    EXPECT_FALSE(accepts(clone(whole), bad)) << bad;
  }
}

// What compiles, but comes to too much on the way, ends its own text.
TEST_F(Grammar, EachStepIsBounded) {
  int ended = 0;
  for (const char* pattern :
       {"(a{1,100}){1,100}", "((a{1,20}b?){1,20}c?){1,20}", R"((\p{L}{1,60}[^a]{0,60}){1,60})", "(?s:.*a.{500})"}) {
    Matcher matcher = compile(Constraint::regex(pattern));
    TokenMask allowed(vocabulary_->size());
    const TokenId letter = 'a';
    for (int i = 0; i < 500; ++i) {
      const Result<TextState> state = matcher.mask(allowed);
      if (!state.ok()) {
        EXPECT_EQ(state.error().code, ErrorCode::invalid_argument);
        EXPECT_THAT(state.error().message, HasSubstr("cannot go on by its constraint: its repetitions"));
        ++ended;
        break;
      }
      ASSERT_TRUE(allowed.has(letter));
      if (!matcher.consume({&letter, 1}).ok()) break;
    }
    const auto bytes = matcher.bytes();
    ASSERT_TRUE(bytes.ok());
    EXPECT_LT(bytes.value(), 24ULL << 20) << pattern;
  }
  EXPECT_GT(ended, 0);
}

// Whether they are refused is not what matters: they end soon, without harm.
TEST_F(Grammar, WhatIsLongButFlatDoesNoHarm) {
  const auto harmless = [](const Constraint& constraint) {
    const auto made = grammars_->compile(constraint);
    if (!made.ok()) {
      EXPECT_EQ(made.error().code, ErrorCode::invalid_argument) << made.error().message;
    }
  };
  std::string definitions, properties, rules = "start: r0\n", names;
  for (int i = 0; i < 2000; ++i) {
    const std::string a = std::to_string(i), b = std::to_string(i + 1);
    definitions += "\"a" + a + R"(":{"allOf":[{"$ref":"#/$defs/a)" + b + R"("},{"title":"x"}]},)";
    properties += (i > 0 ? ",\"p" : "\"p") + a + R"(":{"type":"string"})";
    rules += "r" + a + ": \"x\" r" + b + "\n";
    names += (i > 0 ? "|" : "") + ("name" + a);
  }
  harmless(Constraint::json_schema(R"({"$ref":"#/$defs/a0","$defs":{)" + definitions + R"("a2000":{}}})"));
  harmless(Constraint::json_schema(R"({"properties":{)" + properties + "}}"));
  harmless(
      Constraint::json_schema(R"({"type":"array","minItems":1000000000,"items":{"type":"array","minItems":100000}})"));
  harmless(Constraint::json_schema(R"({"type":"string","minLength":1000000000})"));
  harmless(Constraint::json_schema(R"({"type":"string","pattern":"(.*a){30}.{1000}b"})"));
  harmless(Constraint::json_schema(R"({"type":"number","multipleOf":1e-300,"minimum":1e300})"));
  harmless(Constraint::lark(rules + "r2000: \"x\"\n"));
  harmless(Constraint::regex("((a{1000}){1000}){1000}"));
  harmless(Constraint::regex(repeated("a?", 5000) + repeated("a", 5000)));
  harmless(Constraint::regex(repeated("x", 16000)));
  harmless(Constraint::regex(repeated("(a|b)", 3000)));
  harmless(Constraint::regex(names.substr(0, 16000)));
  harmless(Constraint::regex("(.*)(.*)(.*)(.*)(.*)[^x]{500}(.*)y"));
  harmless(Constraint::one_of({repeated("word ", 200000)}));
}

}  // namespace
}  // namespace dalsegno
