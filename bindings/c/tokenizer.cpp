#include "dalsegno/tokenizer.hpp"

#include "bindings/c/values.hpp"

using dalsegno::Result;
using dalsegno::c::array_of;
using dalsegno::c::guarded;

std::int32_t dalsegno_tokenizer_open(const char* model_path, dalsegno_tokenizer** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(model_path);
    DALSEGNO_ASSIGN(tokenizer, dalsegno::Tokenizer::open(model_path));
    *out = new dalsegno_tokenizer{std::move(tokenizer)};
    return {};
  });
}

std::int32_t dalsegno_engine_tokenizer(const dalsegno_engine* engine, dalsegno_tokenizer** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    *out = new dalsegno_tokenizer{engine->engine->tokenizer()};
    return {};
  });
}

void dalsegno_tokenizer_free(dalsegno_tokenizer* tokenizer) {
  delete tokenizer;
}

std::int32_t dalsegno_tokenizer_encode(const dalsegno_tokenizer* tokenizer, const char* text, std::size_t text_size,
                                       std::int32_t special, std::int32_t bos, dalsegno_tokens** out,
                                       dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(tokenizer);
    DALSEGNO_ASSIGN(bytes, array_of(text, text_size, "text"));
    DALSEGNO_ASSIGN(
        ids, tokenizer->tokenizer.encode({bytes.data(), bytes.size()}, {.special = special != 0, .bos = bos != 0}));
    *out = dalsegno::c::new_tokens(std::move(ids));
    return {};
  });
}

std::int32_t dalsegno_tokenizer_decode(const dalsegno_tokenizer* tokenizer, const std::int32_t* ids, std::size_t count,
                                       dalsegno_text** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(tokenizer);
    DALSEGNO_ASSIGN(tokens, array_of(ids, count, "ids"));
    DALSEGNO_ASSIGN(text, tokenizer->tokenizer.decode(tokens));
    *out = dalsegno::c::new_text(std::move(text));
    return {};
  });
}

std::int32_t dalsegno_tokenizer_render(const dalsegno_tokenizer* tokenizer, const char* messages_json,
                                       std::int32_t add_generation_prompt, dalsegno_text** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(tokenizer);
    DALSEGNO_NEED(messages_json);
    DALSEGNO_ASSIGN(text, tokenizer->tokenizer.render(messages_json, add_generation_prompt != 0));
    *out = dalsegno::c::new_text(std::move(text));
    return {};
  });
}

std::int32_t dalsegno_tokenizer_has_template(const dalsegno_tokenizer* tokenizer) {
  return tokenizer != nullptr && tokenizer->tokenizer.has_template() ? 1 : 0;
}

std::int32_t dalsegno_tokenizer_vocabulary_size(const dalsegno_tokenizer* tokenizer) {
  return tokenizer == nullptr ? 0 : tokenizer->tokenizer.vocabulary_size();
}

std::int32_t dalsegno_tokenizer_is_end_of_turn(const dalsegno_tokenizer* tokenizer, std::int32_t id) {
  return tokenizer != nullptr && tokenizer->tokenizer.is_end_of_turn(id) ? 1 : 0;
}
