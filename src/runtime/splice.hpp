#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno {

// Makes ids of a conversation's rendered prompts, at the cost of what is new in them, and such that what was computed
// is found again: as far as a prompt begins with the text of an earlier one and of the reply that was generated from
// it, it gets the very ids of those. A reply that the template changes (thinking dropped, text stripped) is
// tokenised as it is rendered; its K/V stood behind another text anyway.
// Remembers the latest branches of the conversation, so that going back to one finds its replies' ids too.
// Copies share what they remember. Threads: one at a time.
class PromptMemory {
 public:
  // The ids of a rendered prompt, which is remembered.
  Result<std::vector<TokenId>> encode(const Tokenizer& tokenizer, const std::string& text);
  // The same, remembering nothing.
  Result<std::vector<TokenId>> peek(const Tokenizer& tokenizer, const std::string& text) const;
  // The reply that was generated from the prompt encoded last. Requires: there is one, and ids decode to text.
  void add_reply(std::string_view text, std::span<const TokenId> ids);

  // The ids of the prompt encoded last, and of its reply if that was added; empty: there is none.
  [[nodiscard]] std::vector<TokenId> latest() const;

  // What it remembers, as saved sessions hold it.
  struct Saved {
    std::string text;
    std::vector<TokenId> ids;
    std::vector<std::size_t> anchors;  // three numbers for each place where ids can be cut
  };
  [[nodiscard]] std::vector<Saved> save() const;
  // Branches that cannot be are left out: then their ids are made anew from the text.
  static PromptMemory restore(const std::vector<Saved>& saved, int vocabulary);

 private:
  // A place where ids can be cut: those before it do not depend on the text behind it.
  struct Anchor {
    std::size_t text = 0;    // bytes before it
    std::size_t extent = 0;  // bytes that must be the same for it to hold
    std::size_t ids = 0;     // ids before it
  };
  struct Branch {
    std::string text;
    std::vector<TokenId> ids;
    std::vector<Anchor> anchors;  // ascending
  };
  [[nodiscard]] Result<Branch> build(const Tokenizer& tokenizer, const std::string& text) const;
  static void add_anchors(const Tokenizer& tokenizer, Branch& branch, std::size_t text, std::size_t ids);

  std::vector<std::shared_ptr<const Branch>> branches_;  // used last at the end
};

}  // namespace dalsegno
