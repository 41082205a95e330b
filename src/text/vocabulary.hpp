#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/tokenizer.hpp"
#include "dalsegno/types.hpp"

struct dsb_vocabulary;

namespace dalsegno {

// What a GGUF file says about its tokenizer, as plain data (text/ does not read files).
// The views need to live only during Vocabulary::create.
struct VocabularySpec {
  std::string model;               // tokenizer.ggml.model: "gpt2" or "llama"
  std::optional<std::string> pre;  // tokenizer.ggml.pre
  std::vector<std::string_view> tokens;
  std::vector<float> scores;                                    // empty if absent
  std::vector<std::int64_t> types;                              // empty if absent
  std::vector<std::string_view> merges;                         // empty if absent
  std::optional<std::int64_t> bos, eos, eot, unknown, padding;  // *_token_id
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

// Text <-> ids by the rules of one GGUF file. Immutable; const calls are thread-safe.
class Vocabulary {
 public:
  // Errors: corrupt (named), unsupported (unknown model or pre-tokenizer rule).
  static Result<std::unique_ptr<Vocabulary>> create(const VocabularySpec& spec);
  ~Vocabulary();
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const;
  Result<std::string> decode(std::span<const TokenId> ids) const;
  // Bytes of one token ("" for control tokens). Requires: 0 <= id < size().
  [[nodiscard]] std::string_view bytes(TokenId id) const;
  [[nodiscard]] bool is_control(TokenId id) const;
  // The file's eos and eot, and control tokens whose text ends a reply or a document in published
  // models, such as <|im_end|>, <end_of_turn> and <|endoftext|>.
  [[nodiscard]] bool is_end_of_turn(TokenId id) const;
  [[nodiscard]] int size() const;
  // Whether encoding puts one space before the text, which decoding takes away again.
  [[nodiscard]] bool adds_space_prefix() const;
  // The token's own text as in the file (control tokens too), for templates (bos_token, eos_token).
  [[nodiscard]] std::string_view token_text(TokenId id) const;
  // Peculiarities worth telling a user, one sentence each (missing byte tokens, ...).
  [[nodiscard]] std::vector<std::string> unusual() const;
  // What encodes, for what else is made of it in the bridge.
  [[nodiscard]] const dsb_vocabulary* encoder() const;

 private:
  struct Impl;
  explicit Vocabulary(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of ids into text that is always whole UTF-8 characters: holds back at most
// 3 bytes; ill-formed parts become U+FFFD. All pieces joined are Vocabulary::decode of all ids.
// Requires: the vocabulary outlives it.
class StreamDecoder {
 public:
  // exact: the text goes on from another, so that a space in front is the model's own.
  explicit StreamDecoder(const Vocabulary& vocabulary, bool exact = false)
      : vocabulary_(&vocabulary), at_start_(!exact) {}
  // New text, possibly empty. Requires: 0 <= id < the vocabulary's size.
  std::string push(TokenId id);
  // What is left at the end.
  std::string finish();

 private:
  const Vocabulary* vocabulary_;
  std::string held_;
  bool at_start_;  // no token has given text yet
};

// A chat template (Jinja), compiled once. Const calls are thread-safe.
class ChatTemplate {
 public:
  // Errors: invalid_argument (a syntax error, with its line), unsupported (longer than 256 KB).
  static Result<std::unique_ptr<ChatTemplate>> create(std::string_view source, std::string_view bos_token,
                                                      std::string_view eos_token);
  ~ChatTemplate();
  // context_json: an object; "messages" must be an array. "bos_token" and "eos_token" are added if absent.
  // Errors: invalid_argument (bad JSON, the template refuses), exhausted (fuel or output limit).
  Result<std::string> render(std::string_view context_json) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
