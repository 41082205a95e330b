#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno {

struct EncodeOptions {
  bool special = false;  // recognise control tokens such as <|im_start|> in the text
  bool bos = false;      // add what the model adds (usually BOS, or nothing)
};

// The tokenizer and chat template of one GGUF file; the weights are not loaded.
// Immutable and safe to use from several threads; copies share state.
class Tokenizer {
 public:
  // Errors: not_found, corrupt, unsupported (an unknown pre-tokenizer rule).
  static Result<Tokenizer> open(const std::string& model_path);

  // text: UTF-8; ill-formed bytes are encoded as U+FFFD.
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options = {}) const;
  // Ids outside the vocabulary are an invalid_argument; control tokens give no text.
  Result<std::string> decode(std::span<const TokenId> ids) const;

  [[nodiscard]] bool has_template() const;
  // messages_json: a JSON array of messages, or an object whose "messages" is one and whose
  // other members ("tools", "add_generation_prompt", ...) are handed to the template too.
  // Errors: invalid_argument (no template, bad JSON, the template's raise_exception),
  // exhausted (fuel or output limit).
  Result<std::string> render(std::string_view messages_json, bool add_generation_prompt) const;

  [[nodiscard]] int vocabulary_size() const;
  [[nodiscard]] bool is_end_of_turn(TokenId id) const;
  // One token by itself: its bytes in a text ("" for control tokens), and its name as the file has it.
  // Requires: 0 <= id < vocabulary_size().
  [[nodiscard]] std::string token_bytes(TokenId id) const;
  [[nodiscard]] std::string token_text(TokenId id) const;
  [[nodiscard]] bool is_control(TokenId id) const;
  // What the file names as such, if it does.
  [[nodiscard]] std::optional<TokenId> bos() const;
  [[nodiscard]] std::optional<TokenId> eos() const;

  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);
  [[nodiscard]] const Impl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace dalsegno
