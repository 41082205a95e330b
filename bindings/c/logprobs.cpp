#include "dalsegno/logprobs.hpp"

#include "bindings/c/values.hpp"

struct dalsegno_logprobs {
  std::shared_ptr<dalsegno::Engine> engine;  // declared first: the queries go before it
  std::unique_ptr<dalsegno::LogprobCache> cache;
};

struct dalsegno_query {
  std::shared_ptr<dalsegno::Engine> engine;
  dalsegno::LogprobCache::Query query;
};

namespace {

using dalsegno::LogprobRow;
using dalsegno::Result;
using dalsegno::TokenId;
using dalsegno::c::array_of;
using dalsegno::c::guarded;

using HeldRow = dalsegno::c::Holding<dalsegno_logprob_row, LogprobRow>;

dalsegno_logprob_row* new_row(const LogprobRow& row) {
  auto held = std::make_unique<HeldRow>(HeldRow{{row->data(), row->size()}, row});
  return held.release();
}

dalsegno_logprobs_options default_options() {
  const dalsegno::LogprobOptions options;
  dalsegno_logprobs_options plain{};
  plain.max_bytes = options.max_bytes;
  plain.chunk = options.chunk;
  return plain;
}

}  // namespace

void dalsegno_logprobs_options_init(dalsegno_logprobs_options* options, std::size_t size) {
  dalsegno::c::initialise(options, size, default_options());
}

std::int32_t dalsegno_logprobs_create(dalsegno_engine* engine, const dalsegno_logprobs_options* options,
                                      dalsegno_logprobs** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(all, dalsegno::c::sized(options, default_options(), "dalsegno_logprobs_options"));
    DALSEGNO_ASSIGN(cache, dalsegno::LogprobCache::create(*engine->engine, {.salt = dalsegno::c::text_of(all.salt),
                                                                            .max_bytes = all.max_bytes,
                                                                            .chunk = all.chunk}));
    *out = new dalsegno_logprobs{engine->engine, std::move(cache)};
    return {};
  });
}

void dalsegno_logprobs_free(dalsegno_logprobs* logprobs) {
  delete logprobs;
}

std::int32_t dalsegno_logprobs_next(dalsegno_logprobs* logprobs, const std::int32_t* tokens, std::size_t count,
                                    dalsegno_logprob_row** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(logprobs);
    DALSEGNO_ASSIGN(ids, array_of(tokens, count, "tokens"));
    DALSEGNO_ASSIGN(row, logprobs->cache->next_token_logprobs(ids));
    *out = new_row(row);
    return {};
  });
}

std::int32_t dalsegno_logprobs_next_batch(dalsegno_logprobs* logprobs, const dalsegno_token_span* batch,
                                          std::size_t count, dalsegno_logprob_row** rows, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(rows);
    std::fill_n(rows, count, nullptr);
    DALSEGNO_NEED(logprobs);
    DALSEGNO_ASSIGN(spans, array_of(batch, count, "batch"));
    std::vector<std::vector<TokenId>> queries;
    for (const dalsegno_token_span& span : spans) {
      DALSEGNO_ASSIGN(ids, array_of(span.ids, span.count, "ids"));
      queries.emplace_back(ids.begin(), ids.end());
    }
    DALSEGNO_ASSIGN(answers, logprobs->cache->next_token_logprobs(queries));
    std::vector<std::unique_ptr<HeldRow>> held;
    for (const LogprobRow& row : answers)
      held.push_back(std::make_unique<HeldRow>(HeldRow{{row->data(), row->size()}, row}));
    for (std::size_t i = 0; i < held.size(); ++i) rows[i] = held[i].release();
    return {};
  });
}

void dalsegno_logprob_row_free(dalsegno_logprob_row* row) {
  delete static_cast<HeldRow*>(row);
}

std::int32_t dalsegno_logprobs_query(dalsegno_logprobs* logprobs, const std::int32_t* tokens, std::size_t count,
                                     dalsegno_query** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(logprobs);
    DALSEGNO_ASSIGN(ids, array_of(tokens, count, "tokens"));
    *out = new dalsegno_query{logprobs->engine, logprobs->cache->query(ids)};
    return {};
  });
}

std::int32_t dalsegno_query_is_ready(const dalsegno_query* query) {
  return query != nullptr && query->query.is_ready() ? 1 : 0;
}

std::int32_t dalsegno_query_get(const dalsegno_query* query, dalsegno_logprob_row** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(query);
    DALSEGNO_ASSIGN(row, query->query.get());
    *out = new_row(row);
    return {};
  });
}

void dalsegno_query_free(dalsegno_query* query) {
  delete query;
}

std::int32_t dalsegno_logprobs_cache_kv(dalsegno_logprobs* logprobs, const std::int32_t* prompt, std::size_t count,
                                        dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(logprobs);
    DALSEGNO_ASSIGN(ids, array_of(prompt, count, "prompt"));
    return logprobs->cache->cache_kv(ids);
  });
}

std::int32_t dalsegno_logprobs_clear_cache(dalsegno_logprobs* logprobs, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(logprobs);
    logprobs->cache->clear_cache();
    return {};
  });
}

std::int32_t dalsegno_logprobs_clear_kv_cache(dalsegno_logprobs* logprobs, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(logprobs);
    logprobs->cache->clear_kv_cache();
    return {};
  });
}

std::int32_t dalsegno_logprobs_stats(const dalsegno_logprobs* logprobs, dalsegno_logprob_stats* out,
                                     std::size_t out_size, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(out);
    dalsegno::c::write_report(out, out_size, dalsegno_logprob_stats{});
    DALSEGNO_NEED(logprobs);
    const dalsegno::LogprobStats stats = logprobs->cache->stats();
    dalsegno::c::write_report(out, out_size,
                              dalsegno_logprob_stats{stats.queries, stats.hits, stats.joined, stats.computed,
                                                     stats.evicted, stats.rows, stats.bytes});
    return {};
  });
}
