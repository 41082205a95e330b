#include "text/utf8.hpp"

#include <cstddef>

namespace dalsegno {
namespace {

struct Part {
  std::size_t bytes = 1;  // looked at so far, all of one character or of one ill-formed part
  bool whole = false;
  bool open = false;  // more bytes may complete it
};

// How long a character that starts with `lead` is, 0 if none does, and what its second byte may be.
struct Form {
  std::size_t length;
  unsigned low, high;
};

Form form_of(unsigned lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Requires: text is not empty.
Part first_part(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const Form form = form_of(byte(0));
  if (form.length == 0) return {1, false, false};
  for (std::size_t i = 1; i < form.length; ++i) {
    if (i == text.size()) return {i, false, true};
    const unsigned low = i == 1 ? form.low : 0x80;
    const unsigned high = i == 1 ? form.high : 0xBF;
    if (byte(i) < low || byte(i) > high) return {i, false, false};
  }
  return {form.length, true, false};
}

}  // namespace

void take_whole_characters(std::string& held, std::string& text) {
  std::size_t at = 0;
  while (at < held.size()) {
    const Part part = first_part(std::string_view(held).substr(at));
    if (part.open) break;
    if (part.whole) {
      text.append(held, at, part.bytes);
    } else {
      text.append(kReplacement);
    }
    at += part.bytes;
  }
  held.erase(0, at);
}

}  // namespace dalsegno
