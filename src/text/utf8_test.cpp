#include "text/utf8.hpp"

#include <gtest/gtest.h>

namespace dalsegno {
namespace {

struct Taken {
  std::string text, held;
};

Taken take(std::string held) {
  Taken taken;
  take_whole_characters(held, taken.text);
  taken.held = held;
  return taken;
}

TEST(Utf8, WholeCharactersPass) {
  const std::string text = "a\xC3\xA9\xE2\x96\x81\xF0\x9F\x98\x80";
  EXPECT_EQ(take(text).text, text);
  EXPECT_EQ(take(text).held, "");
}

TEST(Utf8, ABeginningIsHeldBack) {
  const std::string smile = "\xF0\x9F\x98\x80";
  for (std::size_t bytes = 1; bytes < smile.size(); ++bytes) {
    const Taken taken = take("a" + smile.substr(0, bytes));
    EXPECT_EQ(taken.text, "a");
    EXPECT_EQ(taken.held, smile.substr(0, bytes));
  }
}

TEST(Utf8, EachIllFormedPartIsOneReplacement) {
  const std::string r(kReplacement);
  EXPECT_EQ(take("\xFFz").text, r + "z");
  EXPECT_EQ(take("\x80\x80z").text, r + r + "z");
  EXPECT_EQ(take("\xE2\x96z").text, r + "z");                      // a character cut short is one part
  EXPECT_EQ(take("\xC0\xAFz").text, r + r + "z");                  // overlong
  EXPECT_EQ(take("\xE0\x80\x80z").text, r + r + r + "z");          // overlong
  EXPECT_EQ(take("\xED\xA0\x80z").text, r + r + r + "z");          // a surrogate
  EXPECT_EQ(take("\xF4\x90\x80\x80z").text, r + r + r + r + "z");  // above U+10FFFF
}

}  // namespace
}  // namespace dalsegno
