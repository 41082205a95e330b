#include "dalsegno/prompt_cache.hpp"

#include "bindings/c/values.hpp"

using dalsegno::Result;
using dalsegno::c::array_of;
using dalsegno::c::guarded;
using dalsegno::c::text_of;

std::int32_t dalsegno_prompt_cache_make(dalsegno_engine* engine, const std::int32_t* tokens, std::size_t count,
                                        const char* salt, dalsegno_prompt_cache** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(ids, array_of(tokens, count, "tokens"));
    DALSEGNO_ASSIGN(cache, dalsegno::PromptCache::make(*engine->engine, ids, text_of(salt)));
    *out = new dalsegno_prompt_cache{engine->engine, std::move(cache)};
    return {};
  });
}

std::int32_t dalsegno_prompt_cache_load(dalsegno_engine* engine, const char* path, const char* salt,
                                        dalsegno_prompt_cache** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_NEED(path);
    DALSEGNO_ASSIGN(cache, dalsegno::PromptCache::load(*engine->engine, path, text_of(salt)));
    *out = new dalsegno_prompt_cache{engine->engine, std::move(cache)};
    return {};
  });
}

std::int32_t dalsegno_prompt_cache_save(const dalsegno_prompt_cache* cache, const char* path, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(cache);
    DALSEGNO_NEED(path);
    return cache->cache.save(path);
  });
}

std::int32_t dalsegno_prompt_cache_fork(const dalsegno_prompt_cache* cache, dalsegno_prompt_cache** out,
                                        dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(cache);
    *out = new dalsegno_prompt_cache{cache->engine, cache->cache.fork()};
    return {};
  });
}

std::int32_t dalsegno_prompt_cache_trim(dalsegno_prompt_cache* cache, std::int32_t tokens, std::int32_t* left,
                                        dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    if (left != nullptr) *left = 0;
    DALSEGNO_NEED(cache);
    DALSEGNO_ASSIGN(kept, cache->cache.trim(tokens));
    if (left != nullptr) *left = kept;
    return {};
  });
}

std::int32_t dalsegno_prompt_cache_size(const dalsegno_prompt_cache* cache) {
  return cache == nullptr ? 0 : cache->cache.size();
}

std::int32_t dalsegno_prompt_cache_tokens(const dalsegno_prompt_cache* cache, dalsegno_tokens** out,
                                          dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(cache);
    const auto tokens = cache->cache.tokens();
    *out = dalsegno::c::new_tokens({tokens.begin(), tokens.end()});
    return {};
  });
}

std::int32_t dalsegno_prompt_cache_format(const dalsegno_prompt_cache* cache, dalsegno_kv* out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(out);
    *out = {};
    DALSEGNO_NEED(cache);
    *out = dalsegno::c::plain(cache->cache.format());
    return {};
  });
}

void dalsegno_prompt_cache_free(dalsegno_prompt_cache* cache) {
  delete cache;
}
