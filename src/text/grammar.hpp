#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "dalsegno/constraint.hpp"
#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"
#include "text/vocabulary.hpp"

struct dsb_grammars;
struct dsb_matcher;

namespace dalsegno {

// A set of tokens.
class TokenMask {
 public:
  explicit TokenMask(int vocabulary) : words_((static_cast<std::size_t>(vocabulary) + 31) / 32) {}
  // Ids beyond the vocabulary are not in it.
  [[nodiscard]] bool has(TokenId id) const {
    const auto place = static_cast<std::size_t>(id);
    return place / 32 < words_.size() && (words_[place / 32] >> (place % 32) & 1U) != 0;
  }
  [[nodiscard]] int count() const;
  // By word: bit id % 32 of word id / 32.
  [[nodiscard]] std::span<std::uint32_t> words() { return words_; }
  [[nodiscard]] std::span<const std::uint32_t> words() const { return words_; }

 private:
  std::vector<std::uint32_t> words_;
};

// Of a text that follows a grammar.
enum class TextState : std::uint8_t {
  open,      // some token may follow
  complete,  // it is whole, and nothing but its end may follow
  dead,      // no token may follow, and it is not whole
};

// How far a text has come in its grammar. Copies go on from the same place, each for itself.
// Threads: one at a time; of several copies, several.
class Matcher {
 public:
  Matcher(Matcher&&) noexcept = default;
  Matcher& operator=(Matcher&&) noexcept = default;
  ~Matcher() = default;
  [[nodiscard]] Result<Matcher> clone() const;

  // Of tool calls, at the beginning: the text begins within thoughts, which the prompt has begun.
  void think();
  // Errors of all of these: invalid_argument, where the grammar is too complex to go on with, or where consume() is
  // given what mask() did not allow. After one nothing but errors follows.
  // Which tokens may follow: while the text may end, those that end it too.
  Result<TextState> mask(TokenMask& allowed);
  Result<TextState> consume(std::span<const TokenId> ids);
  // The token that must follow, or none: what mask() would allow alone. Cost: microseconds, unlike mask().
  Result<std::optional<TokenId>> forced();
  // Whether the text may end here.
  Result<bool> accepts();
  // What the grammar takes by now, shared by all copies; at most. It grows with what texts make of it.
  [[nodiscard]] Result<std::uint64_t> bytes() const;

 private:
  friend class Grammars;
  // Copies share what they learn of their grammar. The bridge locks it for itself; this lock is one that race detectors
  // see too, since they do not see into the bridge.
  struct Free {
    std::shared_ptr<std::mutex> shared;
    void operator()(dsb_matcher* handle) const;
  };
  Matcher(dsb_matcher* handle, std::shared_ptr<std::mutex> shared) : handle_(handle, Free{std::move(shared)}) {}
  [[nodiscard]] std::unique_lock<std::mutex> lock() const { return std::unique_lock(*handle_.get_deleter().shared); }
  std::unique_ptr<dsb_matcher, Free> handle_;
};

// Compiles grammars for one vocabulary, whose tokens it keeps as a trie. Const calls are thread-safe.
// Forced text is written in the tokens that the tokenizer would write it in, so that a grammar's literals cost the
// model no choice between spellings: where the grammar forces bytes, mask() allows one token.
class Grammars {
 public:
  // Errors: unsupported (no token ends a text).
  static Result<std::unique_ptr<Grammars>> create(const Vocabulary& vocabulary);
  // At the beginning of a text. Errors: invalid_argument, in milliseconds (not valid, not supported, too large or too
  // deep; the sentence says which).
  [[nodiscard]] Result<Matcher> compile(const Constraint& constraint) const;

 private:
  struct Free {
    void operator()(dsb_grammars* handle) const;
  };
  explicit Grammars(dsb_grammars* handle) : handle_(handle) {}
  std::unique_ptr<dsb_grammars, Free> handle_;
};

}  // namespace dalsegno
