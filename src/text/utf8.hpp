#pragma once

#include <string>
#include <string_view>

namespace dalsegno {

// Moves the whole characters at the front of `held` to `text`, an ill-formed part as one U+FFFD;
// leaves what may still become a character, at most 3 bytes. Source: the Unicode standard, table 3-7
// and "substitution of maximal subparts".
void take_whole_characters(std::string& held, std::string& text);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace dalsegno
