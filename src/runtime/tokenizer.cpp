#include "dalsegno/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "gguf/gguf.hpp"
#include "gguf/printable.hpp"
#include "runtime/tokenizer_impl.hpp"
#include "text/utf8.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {
namespace {

namespace json = boost::json;

Result<std::optional<std::int64_t>> optional_integer(const GgufFile& file, std::string_view key) {
  if (!file.has(key)) return std::optional<std::int64_t>();
  DALSEGNO_ASSIGN(value, file.integer(key));
  return std::optional(value);
}

Result<std::optional<bool>> optional_boolean(const GgufFile& file, std::string_view key) {
  if (!file.has(key)) return std::optional<bool>();
  DALSEGNO_ASSIGN(value, file.boolean_or(key, false));
  return std::optional(value);
}

// A key that may be absent, into a field of the spec.
template <class Field, class Read>
Result<void> fill(const GgufFile& file, std::string_view key, Field& field, Read read) {
  if (!file.has(key)) return {};
  DALSEGNO_ASSIGN(value, read());
  field = std::move(value);
  return {};
}

Result<void> fill_arrays(const GgufFile& file, VocabularySpec& spec) {
  DALSEGNO_ASSIGN(tokens, file.strings("tokenizer.ggml.tokens"));
  spec.tokens = std::move(tokens);
  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
  constexpr std::string_view kMerges = "tokenizer.ggml.merges";
  DALSEGNO_TRY(fill(file, kScores, spec.scores, [&] { return file.floats(kScores); }));
  DALSEGNO_TRY(fill(file, kTypes, spec.types, [&] { return file.integers(kTypes); }));
  DALSEGNO_TRY(fill(file, kMerges, spec.merges, [&] { return file.strings(kMerges); }));
  return {};
}

Result<VocabularySpec> vocabulary_spec(const GgufFile& file) {
  VocabularySpec spec;
  DALSEGNO_ASSIGN(model, file.string("tokenizer.ggml.model"));
  spec.model = std::move(model);
  constexpr std::string_view kPre = "tokenizer.ggml.pre";
  DALSEGNO_TRY(fill(file, kPre, spec.pre, [&] { return file.string(kPre); }));
  DALSEGNO_TRY(fill_arrays(file, spec));
  const auto id = [&](std::string_view key, std::optional<std::int64_t>& field) -> Result<void> {
    DALSEGNO_ASSIGN(value, optional_integer(file, key));
    field = value;
    return {};
  };
  DALSEGNO_TRY(id("tokenizer.ggml.bos_token_id", spec.bos));
  DALSEGNO_TRY(id("tokenizer.ggml.eos_token_id", spec.eos));
  DALSEGNO_TRY(id("tokenizer.ggml.eot_token_id", spec.eot));
  DALSEGNO_TRY(id("tokenizer.ggml.unknown_token_id", spec.unknown));
  DALSEGNO_TRY(id("tokenizer.ggml.padding_token_id", spec.padding));
  const auto flag = [&](std::string_view key, std::optional<bool>& field) -> Result<void> {
    DALSEGNO_ASSIGN(value, optional_boolean(file, key));
    field = value;
    return {};
  };
  DALSEGNO_TRY(flag("tokenizer.ggml.add_bos_token", spec.add_bos));
  DALSEGNO_TRY(flag("tokenizer.ggml.add_eos_token", spec.add_eos));
  DALSEGNO_TRY(flag("tokenizer.ggml.add_space_prefix", spec.add_space_prefix));
  return spec;
}

// The sentence may quote tokens, whatever they hold.
Error in_file(const GgufFile& file, const Error& error) {
  return Error{error.code, fmt::format("{}: {}", quoted_path(file.path()), printable(error.message))};
}

std::string_view text_of(const Vocabulary& vocabulary, std::optional<std::int64_t> id) {
  return id ? vocabulary.token_text(static_cast<TokenId>(*id)) : std::string_view();
}

Result<std::unique_ptr<ChatTemplate>> chat_template_of(const GgufFile& file, const VocabularySpec& spec,
                                                       const Vocabulary& vocabulary) {
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  if (!file.has(kTemplate)) return std::unique_ptr<ChatTemplate>();
  DALSEGNO_ASSIGN(source, file.string(kTemplate));
  auto made = ChatTemplate::create(source, text_of(vocabulary, spec.bos), text_of(vocabulary, spec.eos));
  if (!made.ok()) return in_file(file, made.error());
  return made;
}

bool is_utf8(std::string_view text) {
  std::string held(text);
  std::string whole;
  take_whole_characters(held, whole);
  return held.empty() && whole == text;
}

// The template's context: the caller's object, or one around the caller's array.
Result<std::string> context_of(std::string_view messages_json, bool add_generation_prompt) {
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 100;
  json::value parsed = json::parse(messages_json, error, {}, options);
  if (error && !is_utf8(messages_json)) {
    return Error{ErrorCode::invalid_argument,
                 "the messages are not valid UTF-8; convert them, or replace what is no character by U+FFFD"};
  }
  if (error) {
    return Error{ErrorCode::invalid_argument, fmt::format("the messages are not valid JSON: {}", error.message())};
  }
  if (parsed.is_array()) parsed = json::object{{"messages", std::move(parsed)}};
  json::object* context = parsed.if_object();
  if (context == nullptr || !context->contains("messages") || !context->at("messages").is_array()) {
    return Error{ErrorCode::invalid_argument,
                 "the messages must be a JSON array, or an object with such an array as \"messages\""};
  }
  context->insert_or_assign("add_generation_prompt", add_generation_prompt);
  return json::serialize(*context);
}

}  // namespace

// Libraries make the tables, so that they cannot be counted as they grow. Measured: 10.5 MB of 1.8 MB of metadata
// (SmolLM2), 19.4 of 6.5 (Gemma 3), 8.4 of 0.9 (Llama).
std::uint64_t vocabulary_bytes(const GgufFile& file) {
  constexpr std::uint64_t kLeast = 6ULL << 20;
  std::uint64_t metadata = file.file_bytes();
  for (const GgufTensor& tensor : file.tensors()) metadata = std::min(metadata, tensor.offset);
  return kLeast + 3 * metadata;
}

Result<Tokenizer> tokenizer_of(const GgufFile& file) {
  DALSEGNO_ASSIGN(spec, vocabulary_spec(file));
  auto vocabulary = Vocabulary::create(spec);
  if (!vocabulary.ok()) return in_file(file, vocabulary.error());
  auto impl = std::make_shared<Tokenizer::Impl>();
  impl->vocabulary = std::move(vocabulary).value();
  DALSEGNO_ASSIGN(chat_template, chat_template_of(file, spec, *impl->vocabulary));
  impl->chat_template = std::move(chat_template);
  const auto known = [&](std::optional<std::int64_t> id) -> std::optional<TokenId> {
    if (!id || *id < 0 || *id >= impl->vocabulary->size()) return std::nullopt;
    return static_cast<TokenId>(*id);
  };
  impl->bos = known(spec.bos);
  impl->eos = known(spec.eos);
  return Tokenizer(std::move(impl));
}

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Result<Tokenizer> Tokenizer::open(const std::string& model_path) {
  DALSEGNO_ASSIGN(file, GgufFile::open(model_path));
  return tokenizer_of(*file);
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  return impl_->vocabulary->encode(text, options);
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids) const {
  return impl_->vocabulary->decode(ids);
}

bool Tokenizer::has_template() const {
  return impl_->chat_template != nullptr;
}

Result<std::string> Tokenizer::render(std::string_view messages_json, bool add_generation_prompt) const {
  if (!has_template()) {
    return Error{ErrorCode::invalid_argument,
                 "the model has no chat template (tokenizer.chat_template); give it plain text instead"};
  }
  DALSEGNO_ASSIGN(context, context_of(messages_json, add_generation_prompt));
  Result<std::string> text = impl_->chat_template->render(context);
  if (!text.ok()) return Error{text.error().code, printable(text.error().message)};
  return text;
}

int Tokenizer::vocabulary_size() const {
  return impl_->vocabulary->size();
}

std::string Tokenizer::token_bytes(TokenId id) const {
  return std::string(impl_->vocabulary->bytes(id));
}

std::string Tokenizer::token_text(TokenId id) const {
  return std::string(impl_->vocabulary->token_text(id));
}

bool Tokenizer::is_control(TokenId id) const {
  return impl_->vocabulary->is_control(id);
}

std::optional<TokenId> Tokenizer::bos() const {
  return impl_->bos;
}

std::optional<TokenId> Tokenizer::eos() const {
  return impl_->eos;
}

bool Tokenizer::is_end_of_turn(TokenId id) const {
  return id >= 0 && id < vocabulary_size() && impl_->vocabulary->is_end_of_turn(id);
}

}  // namespace dalsegno
