#include "text/vocabulary.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "dalsegno_bridge.h"
#include "text/bridge_call.hpp"
#include "text/token_table.hpp"
#include "text/utf8.hpp"

namespace dalsegno {
namespace {

// Texts under which published models end a reply or a document. Where one of them is a control token,
// nothing sensible follows it, whichever of them the file names as eos.
constexpr std::array<std::string_view, 12> kEndMarks = {
    "<|im_end|>",      "<|eot_id|>",    "<|eom_id|>",    "<|end|>",    "<end_of_turn>", "<|end_of_turn|>",
    "<|end_of_text|>", "<|endoftext|>", "<|endofturn|>", "<|return|>", "<|eot|>",       "<eos>"};

Result<std::int32_t> checked_id(std::optional<std::int64_t> id, const char* key, std::size_t count) {
  if (!id) return -1;
  if (*id < 0 || static_cast<std::uint64_t>(*id) >= count) {
    return Error{ErrorCode::corrupt, fmt::format("tokenizer.ggml.{} is {}, but there are {} tokens", key, *id, count)};
  }
  return static_cast<std::int32_t>(*id);
}

Result<void> check_scores(const VocabularySpec& spec) {
  if (spec.model != "llama") return {};
  if (spec.scores.size() != spec.tokens.size()) {
    return Error{ErrorCode::corrupt, fmt::format("tokenizer.ggml.scores has {} entries for {} tokens",
                                                 spec.scores.size(), spec.tokens.size())};
  }
  const auto bad = std::ranges::find_if(spec.scores, [](float score) { return std::isnan(score); });
  if (bad == spec.scores.end()) return {};
  return Error{ErrorCode::corrupt,
               fmt::format("the score of token {} (tokenizer.ggml.scores) is not a number", bad - spec.scores.begin())};
}

Result<void> check_model(const VocabularySpec& spec) {
  if (spec.model == "gpt2" || spec.model == "llama") return {};
  return Error{ErrorCode::unsupported,
               fmt::format("the tokenizer model \"{}\" (tokenizer.ggml.model) is not supported; gpt2 and llama are",
                           spec.model)};
}

std::int8_t tristate(std::optional<bool> said) {
  return static_cast<std::int8_t>(said ? int{*said} : -1);
}

std::vector<dsb_text> borrow_all(const std::vector<std::string_view>& texts) {
  std::vector<dsb_text> out(texts.size());
  std::ranges::transform(texts, out.begin(), borrow);
  return out;
}

struct FreeVocabulary {
  void operator()(const dsb_vocabulary* vocabulary) const { dsb_vocabulary_free(vocabulary); }
};
using Encoder = std::unique_ptr<const dsb_vocabulary, FreeVocabulary>;

Result<Encoder> create_encoder(const VocabularySpec& spec, const TokenTable& table) {
  static_assert(sizeof(TokenKind) == sizeof(std::uint8_t));
  const std::vector<dsb_text> tokens = borrow_all(spec.tokens);
  const std::vector<dsb_text> merges = borrow_all(spec.merges);
  DALSEGNO_ASSIGN(bos, checked_id(spec.bos, "bos_token_id", tokens.size()));
  DALSEGNO_ASSIGN(eos, checked_id(spec.eos, "eos_token_id", tokens.size()));
  DALSEGNO_ASSIGN(unknown, checked_id(spec.unknown, "unknown_token_id", tokens.size()));
  dsb_vocabulary_spec raw = {};
  raw.model = borrow(spec.model);
  if (spec.pre) raw.pre = borrow(*spec.pre);
  raw.tokens = tokens.data();
  raw.types = reinterpret_cast<const std::uint8_t*>(table.kinds().data());
  raw.scores = spec.model == "llama" ? spec.scores.data() : nullptr;
  raw.token_count = tokens.size();
  raw.merges = merges.data();
  raw.merge_count = merges.size();
  raw.bos = bos;
  raw.eos = eos;
  raw.unknown = unknown;
  raw.add_bos = tristate(spec.add_bos);
  raw.add_eos = tristate(spec.add_eos);
  raw.add_space_prefix = tristate(spec.add_space_prefix);
  const dsb_vocabulary* made = nullptr;
  BridgeBuffer error;
  if (const int code = dsb_vocabulary_create(&raw, &made, error.out()); code != DSB_OK)
    return bridge_error(code, error);
  return Encoder(made);
}

}  // namespace

struct Vocabulary::Impl {
  TokenTable table;
  Encoder encoder;
  std::vector<bool> end_of_turn;  // by id
  bool space_prefix = false;      // encoding puts one space in front; decoding takes it away
  bool has_unknown = false;

  void find_ends(const VocabularySpec& spec) {
    end_of_turn.resize(static_cast<std::size_t>(table.size()));
    for (TokenId id = 0; id < table.size(); ++id) {
      if (table.kind(id) != TokenKind::control) continue;
      end_of_turn[static_cast<std::size_t>(id)] = std::ranges::count(kEndMarks, table.text(id)) > 0;
    }
    if (spec.eos) end_of_turn[static_cast<std::size_t>(*spec.eos)] = true;
    if (spec.eot) end_of_turn[static_cast<std::size_t>(*spec.eot)] = true;
  }
};

Vocabulary::Vocabulary(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Vocabulary::~Vocabulary() = default;

Result<std::unique_ptr<Vocabulary>> Vocabulary::create(const VocabularySpec& spec) {
  DALSEGNO_TRY(check_model(spec));
  DALSEGNO_ASSIGN(table, TokenTable::create(spec));
  DALSEGNO_TRY(check_scores(spec));
  DALSEGNO_TRY(checked_id(spec.eot, "eot_token_id", spec.tokens.size()));
  DALSEGNO_ASSIGN(encoder, create_encoder(spec, table));
  auto impl = std::make_unique<Impl>(Impl{std::move(table), std::move(encoder), {}, false, false});
  impl->find_ends(spec);
  impl->space_prefix = spec.model == "llama" && spec.add_space_prefix.value_or(true);
  impl->has_unknown = spec.model == "llama" && spec.unknown.has_value();
  return std::unique_ptr<Vocabulary>(new Vocabulary(std::move(impl)));
}

Result<std::vector<TokenId>> Vocabulary::encode(std::string_view text, EncodeOptions options) const {
  std::uint32_t flags = 0;
  if (options.special) flags |= DSB_ENCODE_SPECIAL;
  if (options.bos) flags |= DSB_ENCODE_BOS;
  BridgeIds ids;
  BridgeBuffer error;
  const int code = dsb_vocabulary_encode(impl_->encoder.get(), borrow(text), flags, ids.out(), error.out());
  if (code != DSB_OK) return bridge_error(code, error);
  return ids.copy();
}

Result<std::string> Vocabulary::decode(std::span<const TokenId> ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (const TokenId id : ids) {
    if (id < 0 || id >= size()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("the token id {} is not below {}, the vocabulary's size", id, size())};
    }
    text += decoder.push(id);
  }
  return text + decoder.finish();
}

std::string_view Vocabulary::bytes(TokenId id) const {
  return impl_->table.bytes(id);
}
std::string_view Vocabulary::token_text(TokenId id) const {
  return impl_->table.text(id);
}
int Vocabulary::size() const {
  return impl_->table.size();
}
bool Vocabulary::adds_space_prefix() const {
  return impl_->space_prefix;
}

bool Vocabulary::is_control(TokenId id) const {
  const TokenKind kind = impl_->table.kind(id);
  return kind == TokenKind::control || kind == TokenKind::unknown;
}

bool Vocabulary::is_end_of_turn(TokenId id) const {
  return impl_->end_of_turn[static_cast<std::size_t>(id)];
}

const dsb_vocabulary* Vocabulary::encoder() const {
  return impl_->encoder.get();
}

std::vector<std::string> Vocabulary::unusual() const {
  std::string missing;
  int count = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (impl_->table.single_bytes()[static_cast<std::size_t>(byte)]) continue;
    missing += fmt::format("{}{:02x}", count++ > 0 ? " " : "", byte);
  }
  if (count == 0) return {};
  return {fmt::format("The vocabulary has no token for {} of the 256 bytes ({}); text that needs one of them {}.",
                      count, missing, impl_->has_unknown ? "becomes the unknown token" : "loses it")};
}

std::string StreamDecoder::push(TokenId id) {
  std::string_view bytes = vocabulary_->bytes(id);
  if (at_start_ && !bytes.empty()) {
    at_start_ = false;
    if (vocabulary_->adds_space_prefix() && bytes.front() == ' ') bytes.remove_prefix(1);
  }
  held_.append(bytes);
  std::string text;
  take_whole_characters(held_, text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  if (!held_.empty()) text = kReplacement;
  held_.clear();
  return text;
}

}  // namespace dalsegno
