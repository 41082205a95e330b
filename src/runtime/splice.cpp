#include "runtime/splice.hpp"

#include <algorithm>
#include <utility>

#include "runtime/tokenizer_impl.hpp"

namespace dalsegno {
namespace {

// A branch takes about 9 bytes per byte of text (ids, anchors), a long conversation 1 MB.
constexpr std::size_t kMostBranches = 8;

std::size_t common_bytes(std::string_view a, std::string_view b) {
  const std::size_t size = std::min(a.size(), b.size());
  return static_cast<std::size_t>(std::mismatch(a.begin(), a.begin() + size, b.begin()).first - a.begin());
}

}  // namespace

Result<PromptMemory::Branch> PromptMemory::build(const Tokenizer& tokenizer, const std::string& text) const {
  const Branch* best = nullptr;
  Anchor from;
  std::size_t anchors = 0;  // of the best branch that hold
  for (const auto& branch : branches_) {
    const std::size_t common = common_bytes(branch->text, text);
    const auto beyond = std::find_if(branch->anchors.rbegin(), branch->anchors.rend(),
                                     [&](const Anchor& anchor) { return anchor.extent <= common; });
    if (beyond == branch->anchors.rend() || (best != nullptr && beyond->text < from.text)) continue;
    best = branch.get();
    from = *beyond;
    anchors = static_cast<std::size_t>(branch->anchors.rend() - beyond);
  }
  Branch built;
  if (best != nullptr) {
    built.ids.assign(best->ids.begin(), best->ids.begin() + static_cast<std::ptrdiff_t>(from.ids));
    built.anchors.assign(best->anchors.begin(), best->anchors.begin() + static_cast<std::ptrdiff_t>(anchors));
  }
  built.text = text;
  DALSEGNO_ASSIGN(rest, tokenizer.encode(std::string_view(text).substr(from.text), {.special = true, .bos = false}));
  built.ids.insert(built.ids.end(), rest.begin(), rest.end());
  add_anchors(tokenizer, built, from.text, from.ids);
  return built;
}

// Control tokens are found in a text before anything else is, so what stands before one is tokenised by itself.
void PromptMemory::add_anchors(const Tokenizer& tokenizer, Branch& branch, std::size_t text, std::size_t ids) {
  const Vocabulary& vocabulary = *tokenizer.impl().vocabulary;
  for (; ids < branch.ids.size(); ++ids) {
    if (!vocabulary.is_control(branch.ids[ids])) continue;
    const std::string_view own = vocabulary.token_text(branch.ids[ids]);
    const std::size_t at = branch.text.find(own, text);
    if (own.empty() || at == std::string::npos) return;
    text = at + own.size();
    if (branch.anchors.empty() || branch.anchors.back().text < at) branch.anchors.push_back({at, text, ids});
  }
}

Result<std::vector<TokenId>> PromptMemory::peek(const Tokenizer& tokenizer, const std::string& text) const {
  DALSEGNO_ASSIGN(branch, build(tokenizer, text));
  return std::move(branch.ids);
}

Result<std::vector<TokenId>> PromptMemory::encode(const Tokenizer& tokenizer, const std::string& text) {
  DALSEGNO_ASSIGN(branch, build(tokenizer, text));
  std::vector<TokenId> ids = branch.ids;
  // A branch that this one continues says nothing more.
  std::erase_if(branches_, [&](const auto& known) { return text.starts_with(known->text); });
  if (branches_.size() == kMostBranches) branches_.erase(branches_.begin());
  branches_.push_back(std::make_shared<const Branch>(std::move(branch)));
  return ids;
}

void PromptMemory::add_reply(std::string_view text, std::span<const TokenId> ids) {
  if (ids.empty()) return;
  Branch longer = *branches_.back();
  longer.text += text;
  longer.ids.insert(longer.ids.end(), ids.begin(), ids.end());
  longer.anchors.push_back({longer.text.size(), longer.text.size(), longer.ids.size()});
  branches_.back() = std::make_shared<const Branch>(std::move(longer));
}

std::vector<TokenId> PromptMemory::latest() const {
  return branches_.empty() ? std::vector<TokenId>{} : branches_.back()->ids;
}

std::vector<PromptMemory::Saved> PromptMemory::save() const {
  std::vector<Saved> all;
  for (const auto& branch : branches_) {
    all.push_back({branch->text, branch->ids, {}});
    for (const Anchor& anchor : branch->anchors) {
      all.back().anchors.insert(all.back().anchors.end(), {anchor.text, anchor.extent, anchor.ids});
    }
  }
  return all;
}

PromptMemory PromptMemory::restore(const std::vector<Saved>& saved, int vocabulary) {
  PromptMemory memory;
  for (const Saved& each : saved) {
    Branch branch{each.text, each.ids, {}};
    bool sound = each.anchors.size() % 3 == 0 &&
                 std::ranges::all_of(each.ids, [&](TokenId id) { return id >= 0 && id < vocabulary; });
    for (std::size_t i = 0; sound && i < each.anchors.size(); i += 3) {
      branch.anchors.push_back({each.anchors[i], each.anchors[i + 1], each.anchors[i + 2]});
      const Anchor& anchor = branch.anchors.back();
      sound = anchor.text <= anchor.extent && anchor.extent <= branch.text.size() && anchor.ids <= branch.ids.size();
    }
    if (sound && memory.branches_.size() < kMostBranches) {
      memory.branches_.push_back(std::make_shared<const Branch>(std::move(branch)));
    }
  }
  return memory;
}

}  // namespace dalsegno
