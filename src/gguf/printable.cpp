#include "gguf/printable.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <iterator>

namespace dalsegno {
namespace {

constexpr std::size_t kQuotedBytes = 80;

unsigned char byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

bool continues(std::string_view text, std::size_t i) {
  return i < text.size() && (byte_at(text, i) & 0xC0U) == 0x80U;
}

// Bytes of the well-formed character at i, or 0. The second byte's range excludes overlong forms,
// surrogates and what lies beyond U+10FFFF (Unicode, table 3-7).
std::size_t character_bytes(std::string_view text, std::size_t i) {
  const unsigned first = byte_at(text, i);
  if (first < 0x80U) return 1;
  if (first < 0xC2U || first > 0xF4U || !continues(text, i + 1)) return 0;
  if (first < 0xE0U) return 2;
  const unsigned second = byte_at(text, i + 1);
  if (!continues(text, i + 2)) return 0;
  if (first < 0xF0U) {
    const bool ill_formed = (first == 0xE0U && second < 0xA0U) || (first == 0xEDU && second > 0x9FU);
    return ill_formed ? 0 : 3;
  }
  const bool ill_formed = (first == 0xF0U && second < 0x90U) || (first == 0xF4U && second > 0x8FU);
  return ill_formed || !continues(text, i + 3) ? 0 : 4;
}

// C0, DEL and C1 controls, and the two Unicode line separators, would break the line.
bool breaks_line(std::string_view character) {
  const unsigned first = byte_at(character, 0);
  if (character.size() == 1) return first < 0x20U || first == 0x7FU;
  if (character.size() == 2) return first == 0xC2U && byte_at(character, 1) < 0xA0U;
  return character == "\xE2\x80\xA8" || character == "\xE2\x80\xA9";
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = character_bytes(text, i);
    const std::string_view character = text.substr(i, length == 0 ? 1 : length);
    if (length != 0 && !breaks_line(character)) {
      out += character;
    } else {
      for (std::size_t j = 0; j < character.size(); ++j) {
        fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte_at(character, j));
      }
    }
    i += character.size();
  }
  return out;
}

std::string quoted_name(std::string_view text) {
  if (text.size() <= kQuotedBytes) return quoted_path(text);
  std::size_t cut = kQuotedBytes;
  while (cut > kQuotedBytes - 3 && continues(text, cut)) --cut;
  return fmt::format("'{}...'", printable(text.substr(0, cut)));
}

std::string quoted_path(std::string_view path) {
  return fmt::format("'{}'", printable(path));
}

}  // namespace dalsegno
