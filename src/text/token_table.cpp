#include "text/token_table.hpp"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace dalsegno {
namespace {

constexpr std::string_view kSentencePieceSpace = "\xE2\x96\x81";  // U+2581

// Code point of GPT-2's printable stand-in -> byte, -1 if it is none. Printable Latin-1 stands for
// itself; the other bytes, in order, are U+0100 and up.
std::array<std::int16_t, 512> stand_ins() {
  std::array<std::int16_t, 512> byte_of;
  byte_of.fill(-1);
  std::size_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool own = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    byte_of[own ? byte : next++] = static_cast<std::int16_t>(byte);
  }
  return byte_of;
}

// All stand-ins have one or two bytes of UTF-8. nullopt: a character that is none.
std::optional<std::string> unmap(std::string_view text) {
  static const auto byte_of = stand_ins();
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::size_t code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {
      if (code < 0xC2 || code > 0xC7 || ++i == text.size()) return std::nullopt;
      const std::size_t low = static_cast<unsigned char>(text[i]);
      if ((low & 0xC0U) != 0x80) return std::nullopt;
      code = (code & 0x1FU) << 6 | (low & 0x3FU);
    }
    if (byte_of[code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of[code]));
  }
  return bytes;
}

std::string with_spaces(std::string_view text) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t found = 0; (found = text.find(kSentencePieceSpace, at)) != std::string_view::npos;) {
    out.append(text, at, found - at).push_back(' ');
    at = found + kSentencePieceSpace.size();
  }
  return out.append(text, at);
}

// "<0x0A>" -> 10
std::optional<char> byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  unsigned char byte = 0;
  const char* last = text.data() + 5;
  const auto [end, error] = std::from_chars(text.data() + 3, last, byte, 16);
  if (error != std::errc() || end != last) return std::nullopt;
  return static_cast<char>(byte);
}

Result<void> check_lengths(const VocabularySpec& spec) {
  const std::size_t count = spec.tokens.size();
  if (count == 0 || count > (1U << 24)) {
    return Error{ErrorCode::corrupt,
                 fmt::format("tokenizer.ggml.tokens has {} entries; 1 to 16777216 make sense", count)};
  }
  if (!spec.types.empty() && spec.types.size() != count) {
    return Error{ErrorCode::corrupt,
                 fmt::format("tokenizer.ggml.token_type has {} entries for {} tokens", spec.types.size(), count)};
  }
  return {};
}

bool adds_nothing(TokenKind kind) {
  return kind == TokenKind::control || kind == TokenKind::unknown;
}

}  // namespace

void TokenTable::Strings::reserve(std::size_t count, std::size_t bytes) {
  ends_.reserve(count + 1);
  all_.reserve(bytes);
}

void TokenTable::Strings::push(std::string_view text) {
  all_.append(text);
  ends_.push_back(all_.size());
}

Result<TokenTable> TokenTable::create(const VocabularySpec& spec) {
  DALSEGNO_TRY(check_lengths(spec));
  std::size_t total = 0;
  for (const std::string_view text : spec.tokens) total += text.size();
  TokenTable table;
  table.kinds_.reserve(spec.tokens.size());
  table.texts_.reserve(spec.tokens.size(), total);
  table.bytes_.reserve(spec.tokens.size(), total);
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::int64_t type = spec.types.empty() ? 1 : spec.types[i];
    if (type < 1 || type > 6) {
      return Error{ErrorCode::corrupt,
                   fmt::format("token {} has the type {} (tokenizer.ggml.token_type); 1 to 6 are known", i, type)};
    }
    const auto kind = static_cast<TokenKind>(type);
    const auto id = static_cast<TokenId>(i);
    table.kinds_.push_back(kind);
    table.texts_.push(spec.tokens[i]);
    if (spec.model == "gpt2") {
      DALSEGNO_TRY(table.add_byte_level(id, spec.tokens[i], kind));
    } else {
      DALSEGNO_TRY(table.add_sentence_piece(id, spec.tokens[i], kind));
    }
  }
  return table;
}

Result<void> TokenTable::add_byte_level(TokenId id, std::string_view text, TokenKind kind) {
  if (adds_nothing(kind) || kind == TokenKind::user_defined) {
    add(adds_nothing(kind) ? std::string_view() : text);
    return {};
  }
  const std::optional<std::string> bytes = unmap(text);
  if (!bytes && kind == TokenKind::normal) {
    return Error{ErrorCode::corrupt, fmt::format("token {} (\"{}\") is a normal token but has a character that stands "
                                                 "for no byte; is its tokenizer.ggml.token_type wrong?",
                                                 id, text)};
  }
  add(bytes ? std::string_view(*bytes) : text);
  return {};
}

Result<void> TokenTable::add_sentence_piece(TokenId id, std::string_view text, TokenKind kind) {
  if (adds_nothing(kind)) {
    add({});
    return {};
  }
  if (kind != TokenKind::byte) {
    add(with_spaces(text));
    return {};
  }
  const std::optional<char> byte = byte_token(text);
  if (!byte) {
    return Error{ErrorCode::corrupt,
                 fmt::format("token {} (\"{}\") is a byte token but its text is not <0x00> to <0xFF>", id, text)};
  }
  add({&*byte, 1});
  return {};
}

void TokenTable::add(std::string_view bytes) {
  if (bytes.size() == 1) single_bytes_[static_cast<unsigned char>(bytes[0])] = true;
  bytes_.push(bytes);
}

}  // namespace dalsegno
