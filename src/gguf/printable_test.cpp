#include "gguf/printable.hpp"

#include <gtest/gtest.h>

#include <string>

namespace dalsegno {
namespace {

TEST(Printable, TextStaysAsItIs) {
  const std::string text = "plain, caf\xC3\xA9, \xE2\x82\xAC, \xF0\x9F\x8E\xBC";
  EXPECT_EQ(printable(text), text);
}

TEST(Printable, ControlCharactersAndLineSeparatorsAreSpelledOut) {
  EXPECT_EQ(printable("a\nb\x7f"), "a\\x0ab\\x7f");
  EXPECT_EQ(printable("\xC2\x85"), "\\xc2\\x85");
  EXPECT_EQ(printable("\xE2\x80\xA8"), "\\xe2\\x80\\xa8");
}

TEST(Printable, IllFormedBytesAreSpelledOut) {
  EXPECT_EQ(printable("\xff"), "\\xff");
  EXPECT_EQ(printable("\x80z"), "\\x80z");
  EXPECT_EQ(printable("\xC0\xAF"), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(printable("\xE0\x80\xAF"), "\\xe0\\x80\\xaf");           // overlong
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");           // surrogate
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
  EXPECT_EQ(printable("\xE2\x82"), "\\xe2\\x82");                    // cut
  EXPECT_EQ(printable("\xF0\x9F\x8E"), "\\xf0\\x9f\\x8e");
}

TEST(Printable, LongNamesAreCutBetweenCharacters) {
  EXPECT_EQ(quoted_name(std::string(80, 'x')), "'" + std::string(80, 'x') + "'");
  EXPECT_EQ(quoted_name(std::string(81, 'x')), "'" + std::string(80, 'x') + "...'");
  EXPECT_EQ(quoted_name(std::string(79, 'x') + "\xE2\x82\xAC"), "'" + std::string(79, 'x') + "...'");
  EXPECT_EQ(quoted_path(std::string(300, 'x')), "'" + std::string(300, 'x') + "'");
}

}  // namespace
}  // namespace dalsegno
