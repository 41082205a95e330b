#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {

// tokenizer.ggml.token_type
enum class TokenKind : std::uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

// What every token of a vocabulary is and stands for. Immutable; const calls are thread-safe.
class TokenTable {
 public:
  // Errors: corrupt; names the token, what was found and what was expected.
  static Result<TokenTable> create(const VocabularySpec& spec);

  [[nodiscard]] int size() const { return static_cast<int>(kinds_.size()); }
  // Requires for these: 0 <= id < size().
  [[nodiscard]] TokenKind kind(TokenId id) const { return kinds_[static_cast<std::size_t>(id)]; }
  // As in the file.
  [[nodiscard]] std::string_view text(TokenId id) const { return texts_.at(id); }
  // What it adds to a text; nothing for control and unknown tokens.
  [[nodiscard]] std::string_view bytes(TokenId id) const { return bytes_.at(id); }
  [[nodiscard]] const std::vector<TokenKind>& kinds() const { return kinds_; }
  // By byte: whether some token is that byte alone.
  [[nodiscard]] const std::array<bool, 256>& single_bytes() const { return single_bytes_; }

 private:
  // Many short strings in one.
  class Strings {
   public:
    void reserve(std::size_t count, std::size_t bytes);
    void push(std::string_view text);
    [[nodiscard]] std::string_view at(TokenId id) const {
      const auto i = static_cast<std::size_t>(id);
      return std::string_view(all_).substr(ends_[i], ends_[i + 1] - ends_[i]);
    }

   private:
    std::string all_;
    std::vector<std::size_t> ends_ = {0};
  };

  Result<void> add_byte_level(TokenId id, std::string_view text, TokenKind kind);
  Result<void> add_sentence_piece(TokenId id, std::string_view text, TokenKind kind);
  void add(std::string_view bytes);

  std::vector<TokenKind> kinds_;
  Strings texts_, bytes_;
  std::array<bool, 256> single_bytes_ = {};
};

}  // namespace dalsegno
