#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "dalsegno/tokenizer.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {

class GgufFile;

struct Tokenizer::Impl {
  std::unique_ptr<Vocabulary> vocabulary;
  std::unique_ptr<ChatTemplate> chat_template;  // null if the file has none
  std::optional<TokenId> bos{};
  std::optional<TokenId> eos{};
};

// Errors: corrupt, unsupported (an unknown tokenizer or pre-tokenizer rule); each names the file.
Result<Tokenizer> tokenizer_of(const GgufFile& file);
// What its tables take at most, which can be said before they are made.
[[nodiscard]] std::uint64_t vocabulary_bytes(const GgufFile& file);

}  // namespace dalsegno
