#include "dalsegno/batch.hpp"

#include "bindings/c/values.hpp"

struct dalsegno_batch {
  std::shared_ptr<dalsegno::Engine> engine;  // declared first: the requests go before it
  dalsegno::BatchGenerator generator;
  explicit dalsegno_batch(const std::shared_ptr<dalsegno::Engine>& on) : engine(on), generator(*on) {}
};

namespace {

using dalsegno::Error;
using dalsegno::ErrorCode;
using dalsegno::Result;
using dalsegno::c::array_of;
using dalsegno::c::guarded;
using dalsegno::c::plain;

dalsegno_batch_request default_request() {
  dalsegno_batch_request request{};
  request.keep_cache = 1;
  return request;
}

Result<dalsegno::BatchRequest> request_of(const dalsegno_batch_request* given, const dalsegno::Engine& engine) {
  if (given == nullptr) return Error{ErrorCode::invalid_argument, "requests has a NULL in it"};
  DALSEGNO_ASSIGN(plain_one, dalsegno::c::sized(given, default_request(), "dalsegno_batch_request"));
  DALSEGNO_ASSIGN(prompt, array_of(plain_one.prompt, plain_one.prompt_count, "prompt"));
  DALSEGNO_ASSIGN(asked, dalsegno::c::asked(plain_one.options));
  if (asked.callbacks.on_text || asked.callbacks.on_prefill) {
    return Error{ErrorCode::invalid_argument,
                 "a batch calls neither on_text nor on_prefill: its responses come from next"};
  }
  dalsegno::BatchRequest request{.prompt = {prompt.begin(), prompt.end()}, .options = std::move(asked.options)};
  if (plain_one.has_uid != 0) request.uid = plain_one.uid;
  if (plain_one.cache != nullptr) {
    if (plain_one.cache->engine.get() != &engine) {
      return Error{ErrorCode::invalid_argument, "the cache is of another engine than the batch"};
    }
    request.cache = plain_one.cache->cache;
  }
  request.keep_cache = plain_one.keep_cache != 0;
  return request;
}

struct OwnedResponse {
  dalsegno::BatchResponse response{};
  dalsegno_prompt_cache cache{};
};
using HeldResponse = dalsegno::c::Holding<dalsegno_batch_response, OwnedResponse>;

struct OwnedResponses {
  std::vector<std::unique_ptr<HeldResponse>> responses{};
  std::vector<const dalsegno_batch_response*> pointers{};
};
using HeldResponses = dalsegno::c::Holding<dalsegno_batch_responses, OwnedResponses>;

std::unique_ptr<HeldResponse> held_response(dalsegno::BatchResponse given,
                                            const std::shared_ptr<dalsegno::Engine>& engine) {
  auto held = std::make_unique<HeldResponse>();
  held->owned.response = std::move(given);
  dalsegno::BatchResponse& response = held->owned.response;
  held->uid = response.uid;
  held->has_token = response.token.has_value() ? 1 : 0;
  held->token = response.token.value_or(0);
  held->logprob = response.logprob;
  held->text = response.text.c_str();
  held->text_size = response.text.size();
  held->finish = response.finish_reason ? static_cast<std::int32_t>(*response.finish_reason) : DALSEGNO_FINISH_NONE;
  held->error_code = response.error ? dalsegno::c::code_of(response.error->code) : DALSEGNO_OK;
  held->error_message = response.error ? response.error->message.c_str() : "";
  held->usage = plain(response.usage);
  held->reuse = plain(response.reuse);
  if (response.cache) {
    held->owned.cache = {engine, std::move(*response.cache)};
    held->cache = &held->owned.cache;
  }
  held->cache_refusal = response.cache_refusal.c_str();
  held->proposed_tokens = response.usage.proposed_tokens;
  held->accepted_tokens = response.usage.accepted_tokens;
  return held;
}

}  // namespace

void dalsegno_batch_request_init(dalsegno_batch_request* request, std::size_t size) {
  dalsegno::c::initialise(request, size, default_request());
}

std::int32_t dalsegno_batch_new(dalsegno_engine* engine, dalsegno_batch** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    *out = new dalsegno_batch(engine->engine);
    return {};
  });
}

void dalsegno_batch_free(dalsegno_batch* batch) {
  delete batch;
}

std::int32_t dalsegno_batch_insert(dalsegno_batch* batch, const dalsegno_batch_request* const* requests,
                                   std::size_t count, std::uint64_t* uids, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(batch);
    DALSEGNO_NEED(uids);
    std::fill_n(uids, count, 0);
    DALSEGNO_ASSIGN(given, array_of(requests, count, "requests"));
    std::vector<dalsegno::BatchRequest> all;
    for (const dalsegno_batch_request* one : given) {
      DALSEGNO_ASSIGN(request, request_of(one, *batch->engine));
      all.push_back(std::move(request));
    }
    DALSEGNO_ASSIGN(named, batch->generator.insert(std::move(all)));
    std::copy(named.begin(), named.end(), uids);
    return {};
  });
}

std::int32_t dalsegno_batch_next(dalsegno_batch* batch, dalsegno_batch_responses** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(batch);
    auto held = std::make_unique<HeldResponses>();
    for (dalsegno::BatchResponse& response : batch->generator.next()) {
      held->owned.responses.push_back(held_response(std::move(response), batch->engine));
      held->owned.pointers.push_back(held->owned.responses.back().get());
    }
    held->items = held->owned.pointers.data();
    held->count = held->owned.pointers.size();
    *out = held.release();
    return {};
  });
}

void dalsegno_batch_responses_free(dalsegno_batch_responses* responses) {
  delete static_cast<HeldResponses*>(responses);
}

std::int32_t dalsegno_batch_extract_cache(dalsegno_batch* batch, std::uint64_t uid, dalsegno_prompt_cache** out,
                                          dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(batch);
    DALSEGNO_ASSIGN(cache, batch->generator.extract_cache(uid));
    *out = new dalsegno_prompt_cache{batch->engine, std::move(cache)};
    return {};
  });
}

std::int32_t dalsegno_batch_remove(dalsegno_batch* batch, std::uint64_t uid, dalsegno_prompt_cache** out,
                                   dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    if (out != nullptr) *out = nullptr;
    DALSEGNO_NEED(batch);
    if (out == nullptr) return batch->generator.remove(uid);
    DALSEGNO_ASSIGN(cache, batch->generator.remove_with_cache(uid));
    *out = new dalsegno_prompt_cache{batch->engine, std::move(cache)};
    return {};
  });
}
