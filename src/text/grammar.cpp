#include "text/grammar.hpp"

#include <algorithm>
#include <bit>
#include <optional>
#include <string_view>

#include "dalsegno_bridge.h"
#include "text/bridge_call.hpp"

namespace dalsegno {
namespace {

int kind_of(Constraint::Kind kind) {
  switch (kind) {
    case Constraint::Kind::json_schema:
      return DSB_JSON_SCHEMA;
    case Constraint::Kind::regex:
      return DSB_REGEX;
    case Constraint::Kind::lark:
      return DSB_LARK;
    case Constraint::Kind::tool_calls:
      return DSB_TOOL_CALLS;
    case Constraint::Kind::choices:
      break;
  }
  return DSB_CHOICES;
}

TextState state_of(std::int32_t state) {
  if (state == DSB_COMPLETE) return TextState::complete;
  return state == DSB_DEAD ? TextState::dead : TextState::open;
}

}  // namespace

int TokenMask::count() const {
  int all = 0;
  for (const std::uint32_t word : words_) all += std::popcount(word);
  return all;
}

void Matcher::Free::operator()(dsb_matcher* handle) const {
  const std::lock_guard lock(*shared);
  dsb_matcher_free(handle);
}

Result<Matcher> Matcher::clone() const {
  const auto held = lock();
  dsb_matcher* copy = nullptr;
  BridgeBuffer error;
  if (const int code = dsb_matcher_clone(handle_.get(), &copy, error.out()); code != DSB_OK)
    return bridge_error(code, error);
  return Matcher(copy, handle_.get_deleter().shared);
}

void Matcher::think() {
  const auto held = lock();
  dsb_matcher_think(handle_.get());
}

Result<TextState> Matcher::mask(TokenMask& allowed) {
  const auto held = lock();
  std::int32_t state = 0;
  BridgeBuffer error;
  const auto words = allowed.words();
  if (const int code = dsb_matcher_mask(handle_.get(), words.data(), words.size(), &state, error.out());
      code != DSB_OK) {
    return bridge_error(code, error);
  }
  return state_of(state);
}

Result<TextState> Matcher::consume(std::span<const TokenId> ids) {
  const auto held = lock();
  const std::vector<std::uint32_t> tokens(ids.begin(), ids.end());
  std::int32_t state = 0;
  BridgeBuffer error;
  if (const int code = dsb_matcher_consume(handle_.get(), tokens.data(), tokens.size(), &state, error.out());
      code != DSB_OK) {
    return bridge_error(code, error);
  }
  return state_of(state);
}

Result<std::optional<TokenId>> Matcher::forced() {
  const auto held = lock();
  BridgeIds ids;
  BridgeBuffer error;
  if (const int code = dsb_matcher_forced(handle_.get(), ids.out(), error.out()); code != DSB_OK)
    return bridge_error(code, error);
  const std::vector<TokenId> all = ids.copy();
  return all.empty() ? std::optional<TokenId>() : all.front();
}

Result<bool> Matcher::accepts() {
  const auto held = lock();
  std::int32_t accepts = 0;
  BridgeBuffer error;
  if (const int code = dsb_matcher_accepts(handle_.get(), &accepts, error.out()); code != DSB_OK)
    return bridge_error(code, error);
  return accepts != 0;
}

Result<std::uint64_t> Matcher::bytes() const {
  const auto held = lock();
  std::uint64_t bytes = 0;
  BridgeBuffer error;
  if (const int code = dsb_matcher_bytes(handle_.get(), &bytes, error.out()); code != DSB_OK)
    return bridge_error(code, error);
  return bytes;
}

void Grammars::Free::operator()(dsb_grammars* handle) const {
  dsb_grammars_free(handle);
}

Result<std::unique_ptr<Grammars>> Grammars::create(const Vocabulary& vocabulary) {
  const auto size = static_cast<std::size_t>(vocabulary.size());
  std::vector<dsb_text> tokens(size);
  std::vector<std::uint8_t> special(size);
  std::vector<std::uint32_t> ends;
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const auto place = static_cast<std::size_t>(id);
    const bool is_control = vocabulary.is_control(id);
    special[place] = is_control ? 1 : 0;
    tokens[place] = borrow(is_control ? vocabulary.token_text(id) : vocabulary.bytes(id));
    if (vocabulary.is_end_of_turn(id)) ends.push_back(static_cast<std::uint32_t>(id));
  }
  const dsb_grammars_spec spec = {vocabulary.encoder(), tokens.data(), special.data(), size, ends.data(), ends.size()};
  dsb_grammars* made = nullptr;
  BridgeBuffer error;
  if (const int code = dsb_grammars_create(&spec, &made, error.out()); code != DSB_OK) return bridge_error(code, error);
  return std::unique_ptr<Grammars>(new Grammars(made));
}

Result<Matcher> Grammars::compile(const Constraint& constraint) const {
  std::vector<dsb_text> texts;
  if (constraint.kind == Constraint::Kind::choices) {
    texts.resize(constraint.choices.size());
    std::ranges::transform(constraint.choices, texts.begin(), [](const std::string& text) { return borrow(text); });
  } else {
    texts.push_back(borrow(constraint.text));
  }
  dsb_matcher* made = nullptr;
  BridgeBuffer error;
  const int code =
      dsb_grammar_compile(handle_.get(), kind_of(constraint.kind), texts.data(), texts.size(), &made, error.out());
  if (code != DSB_OK) return bridge_error(code, error);
  return Matcher(made, std::make_shared<std::mutex>());
}

}  // namespace dalsegno
