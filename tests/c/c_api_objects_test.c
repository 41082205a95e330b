// Sessions, conversations, prompt caches, batches, log-probabilities and memory, as C sees them.

#include <math.h>

#include "check.h"

static bool same_ids(const int32_t* left, size_t left_count, const int32_t* right, size_t right_count) {
  return left_count == right_count && memcmp(left, right, left_count * sizeof *left) == 0;
}

// The same turn in both gives the same reply.
static void check_alike(dalsegno_session* left, dalsegno_session* right) {
  const dalsegno_generate_options options = short_reply(8);
  dalsegno_reply *one = NULL, *other = NULL;
  MUST(dalsegno_session_respond(left, "and then?", &options, &one, error));
  MUST(dalsegno_session_respond(right, "and then?", &options, &other, error));
  CHECK(same_ids(one->ids, one->id_count, other->ids, other->id_count));
  CHECK(other->usage.reused_tokens > 0);
  dalsegno_reply_free(one);
  dalsegno_reply_free(other);
}

static int32_t end_at_once(void* user, const char* text, size_t size) {
  *(size_t*)user += size;
  return text[size] != '\0';
}

static void test_transcript(dalsegno_session* session) {
  dalsegno_messages* transcript = NULL;
  MUST(dalsegno_session_transcript(session, &transcript, error));
  CHECK(transcript->count == 5 && strcmp(transcript->items[0].role, "system") == 0);
  CHECK(strcmp(transcript->items[3].content, "and you?") == 0 && strlen(transcript->items[3].name) == 0);
  MUST(dalsegno_session_rewind(session, 1, error));
  CHECK(dalsegno_session_turns(session) == 1);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_rewind(session, 7, error));
  MUST(dalsegno_session_edit(session, 1, "good morning", error));
  dalsegno_reply* reply = NULL;
  const dalsegno_generate_options options = short_reply(8);
  MUST(dalsegno_session_reply(session, &options, &reply, error));
  dalsegno_reply_free(reply);
  MUST(dalsegno_session_set_transcript(session, transcript->items, transcript->count, error));
  CHECK(dalsegno_session_turns(session) == 2);
  dalsegno_messages_free(transcript);
}

static void test_tags(dalsegno_session* session) {
  MUST(dalsegno_session_add_tag(session, "river", error));
  MUST(dalsegno_session_add_tag(session, "house", error));
  MUST(dalsegno_session_remove_tag(session, "river", error));
  dalsegno_texts* tags = NULL;
  MUST(dalsegno_session_tags(session, &tags, error));
  CHECK(tags->count == 1 && strcmp(tags->items[0], "house") == 0);
  dalsegno_texts_free(tags);
}

static void test_saved_session(dalsegno_engine* engine, dalsegno_session* session) {
  char path[1024];
  path_of(path, sizeof path, "session.safetensors");
  MUST(dalsegno_session_save(session, path, error));
  dalsegno_session* loaded = NULL;
  MUST(dalsegno_session_load(engine, path, NULL, 0, NULL, &loaded, error));
  dalsegno_generate_options last;
  MUST(dalsegno_session_last_options(loaded, &last, sizeof last, error));
  CHECK(last.size == sizeof last && last.max_tokens == 8 && last.stop_count == 1 && strcmp(last.stop[0], "ZZZ") == 0);
  CHECK(last.constraint == DALSEGNO_CONSTRAINT_REGEX && strcmp(last.constraint_text, "[a-z ]{20}") == 0);
  check_alike(session, loaded);
  dalsegno_session_free(loaded);
  path_of(path, sizeof path, "none.safetensors");
  FAILS(DALSEGNO_NOT_FOUND, dalsegno_session_load(engine, path, NULL, 0, NULL, &loaded, error));
  CHECK(loaded == NULL);
}

void test_session(dalsegno_engine* engine) {
  dalsegno_session_options options;
  dalsegno_session_options_init(&options, sizeof options);
  options.instructions = "Be brief.";
  options.pin = 1;
  dalsegno_session *session = NULL, *fork = NULL;
  MUST(dalsegno_session_create(engine, &options, &session, error));
  dalsegno_generate_options generate = short_reply(8);
  const char* const stop[] = {"ZZZ"};
  generate.stop = stop;
  generate.stop_count = 1;
  dalsegno_reply* reply = NULL;
  dalsegno_generate_options without = generate;
  without.stop = NULL;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_respond(session, "hello", &without, &reply, error));
  MUST(dalsegno_session_respond(session, "hello there, how are things by the river?", &generate, &reply, error));
  dalsegno_reply_free(reply);
  CHECK(dalsegno_session_pinned_tokens(session) > 0);
  dalsegno_text* refusal = NULL;
  MUST(dalsegno_session_pin_refusal(session, &refusal, error));
  CHECK(refusal->size == 0);
  dalsegno_text_free(refusal);
  generate.constraint = DALSEGNO_CONSTRAINT_REGEX;
  generate.constraint_text = "[a-z ]{20}";
  MUST(dalsegno_session_respond(session, "and you?", &generate, &reply, error));
  CHECK(reply->id_count == 8 && reply->finish == DALSEGNO_FINISH_LENGTH);
  CHECK(strspn(reply->text, "abcdefghijklmnopqrstuvwxyz ") == reply->text_size);
  CHECK(reply->usage.reused_tokens > 0 &&
        reply->usage.prompt_tokens == reply->usage.reused_tokens + reply->usage.prefilled_tokens);
  CHECK(dalsegno_session_turns(session) == 2 && dalsegno_session_report_count(session) == 2);
  dalsegno_reply_report report;
  MUST(dalsegno_session_report(session, 1, &report, sizeof report, error));
  CHECK(report.turn == 2 && report.usage.reused_tokens == reply->usage.reused_tokens);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_report(session, 2, &report, sizeof report, error));
  dalsegno_reply_free(reply);

  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_fork(session, 9, &fork, error));
  MUST(dalsegno_session_fork(session, DALSEGNO_DRAWS_SAME, &fork, error));
  test_saved_session(engine, session);
  MUST(dalsegno_session_rewind(session, 2, error));
  check_alike(session, fork);
  dalsegno_explanation left;
  MUST(dalsegno_session_trim(fork, 3, NULL, &left, sizeof left, error));
  CHECK(left.prompt_tokens > 0);
  dalsegno_session_free(fork);

  MUST(dalsegno_session_rewind(session, 2, error));
  test_transcript(session);
  test_tags(session);
  size_t heard = 0;
  generate.user = &heard;
  generate.on_text = end_at_once;
  generate.max_tokens = 64;
  MUST(dalsegno_session_respond(session, "stop", &generate, &reply, error));
  CHECK(heard == reply->text_size && (heard == 0 || reply->finish == DALSEGNO_FINISH_CANCELLED));
  dalsegno_reply_free(reply);
  dalsegno_session_free(session);
}

void test_conversations(dalsegno_engine* engine) {
  dalsegno_conversations_options options;
  dalsegno_conversations_options_init(&options, sizeof options);
  CHECK(options.most_in_memory > 0 && options.most_on_disk > 0);
  char path[1024];
  path_of(path, sizeof path, "conversations");
  options.folder = path;
  dalsegno_reply* reply = NULL;
  const dalsegno_generate_options generate = short_reply(4);
  for (int32_t round = 0; round < 2; ++round) {
    dalsegno_conversations* all = NULL;
    dalsegno_conversation* one = NULL;
    MUST(dalsegno_conversations_open(engine, &options, &all, error));
    MUST(dalsegno_conversations_use(all, "ada", NULL, &one, error));
    dalsegno_session* session = dalsegno_conversation_session(one);
    CHECK(dalsegno_conversation_from(one) == (round == 0 ? DALSEGNO_FROM_CREATED : DALSEGNO_FROM_DISK));
    CHECK(dalsegno_session_turns(session) == round);
    dalsegno_text* refusal = NULL;
    MUST(dalsegno_conversation_refusal(one, &refusal, error));
    CHECK(refusal->size == 0);
    dalsegno_text_free(refusal);
    MUST(dalsegno_session_respond(session, "hello", &generate, &reply, error));
    dalsegno_reply_free(reply);
    dalsegno_session_free(session);  // the conversation's: nothing happens
    CHECK(dalsegno_session_turns(session) == round + 1);
    dalsegno_conversations_free(all);  // before the one in use
    MUST(dalsegno_conversation_close(one, error));
    CHECK(dalsegno_conversation_session(one) == NULL);
    FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_conversation_close(one, error));
    MUST(dalsegno_conversation_refusal(one, &refusal, error));
    dalsegno_text_free(refusal);
    dalsegno_conversation_free(one);
  }
  dalsegno_conversations* all = NULL;
  dalsegno_conversation* one = NULL;
  MUST(dalsegno_conversations_open(engine, &options, &all, error));
  MUST(dalsegno_conversations_invalidate(all, "ada", error));
  MUST(dalsegno_conversations_use(all, "ada", NULL, &one, error));
  CHECK(dalsegno_conversation_from(one) == DALSEGNO_FROM_CREATED);
  dalsegno_conversation_free(one);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_conversations_use(all, "", NULL, &one, error));
  dalsegno_conversations_free(all);
}

static void fill(int32_t* ids, int32_t count, int32_t step) {
  for (int32_t i = 0; i < count; ++i) ids[i] = 3 + i * step % 250;
}

void test_prompt_cache(dalsegno_engine* engine) {
  int32_t ids[50];
  fill(ids, 50, 11);
  dalsegno_prompt_cache *cache = NULL, *fork = NULL, *loaded = NULL;
  MUST(dalsegno_prompt_cache_make(engine, ids, 50, NULL, &cache, error));
  CHECK(dalsegno_prompt_cache_size(cache) == 50);
  dalsegno_kv format;
  MUST(dalsegno_prompt_cache_format(cache, &format, error));
  CHECK(format.format == DALSEGNO_KV_BF16);
  MUST(dalsegno_prompt_cache_fork(cache, &fork, error));
  int32_t left = 0;
  MUST(dalsegno_prompt_cache_trim(fork, 20, &left, error));
  CHECK(left == 30 && dalsegno_prompt_cache_size(fork) == 30 && dalsegno_prompt_cache_size(cache) == 50);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_prompt_cache_trim(fork, -1, &left, error));
  char path[1024];
  path_of(path, sizeof path, "cache.safetensors");
  MUST(dalsegno_prompt_cache_save(fork, path, error));
  dalsegno_prompt_cache_free(cache);
  dalsegno_prompt_cache_free(fork);
  MUST(dalsegno_engine_reset_cache(engine, error));
  MUST(dalsegno_prompt_cache_load(engine, path, NULL, &loaded, error));
  dalsegno_tokens* tokens = NULL;
  MUST(dalsegno_prompt_cache_tokens(loaded, &tokens, error));
  CHECK(same_ids(tokens->ids, tokens->count, ids, 30));
  dalsegno_tokens_free(tokens);
  dalsegno_explanation explanation;
  MUST(dalsegno_engine_explain(engine, ids, 50, NULL, &explanation, sizeof explanation, error));
  CHECK(explanation.reused_tokens == 30);
  dalsegno_prompt_cache_free(loaded);
}

static int32_t end_of_turn(dalsegno_engine* engine) {
  dalsegno_tokenizer* tokenizer = NULL;
  MUST(dalsegno_engine_tokenizer(engine, &tokenizer, error));
  int32_t id = 0;
  while (!dalsegno_tokenizer_is_end_of_turn(tokenizer, id)) ++id;
  dalsegno_tokenizer_free(tokenizer);
  return id;
}

void test_batch(dalsegno_engine* engine) {
  int32_t first[30], second[20];
  fill(first, 30, 7);
  fill(second, 20, 13);
  dalsegno_prompt_cache *cache = NULL, *extracted = NULL;
  MUST(dalsegno_prompt_cache_make(engine, first, 24, NULL, &cache, error));
  dalsegno_generate_options options = short_reply(60);  // more than the engine works ahead
  options.logprobs = 1;
  const dalsegno_bias goes_on = {end_of_turn(engine), -INFINITY};
  options.logit_bias = &goes_on;
  options.logit_bias_count = 1;
  dalsegno_batch_request one, other;
  dalsegno_batch_request_init(&one, sizeof one);
  dalsegno_batch_request_init(&other, sizeof other);
  one.prompt = first;
  one.prompt_count = 30;
  one.options = &options;
  one.cache = cache;
  one.has_uid = 1;
  one.uid = 77;
  other.prompt = second;
  other.prompt_count = 20;
  other.options = &options;
  other.keep_cache = 0;
  const dalsegno_batch_request* requests[] = {&one, &other};
  uint64_t uids[2] = {0, 0};
  dalsegno_batch* batch = NULL;
  MUST(dalsegno_batch_new(engine, &batch, error));
  MUST(dalsegno_batch_insert(batch, requests, 2, uids, error));
  CHECK(uids[0] == 77 && uids[1] != 77);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_insert(batch, requests, 1, uids, error));  // 77 is in use
  MUST(dalsegno_batch_extract_cache(batch, 77, &extracted, error));
  CHECK(dalsegno_prompt_cache_size(extracted) >= 24);
  dalsegno_prompt_cache_free(extracted);
  extracted = NULL;

  size_t tokens = 0;
  int32_t ends = 0;
  for (;;) {
    dalsegno_batch_responses* responses = NULL;
    MUST(dalsegno_batch_next(batch, &responses, error));
    if (responses->count == 0) {
      dalsegno_batch_responses_free(responses);
      break;
    }
    for (size_t i = 0; i < responses->count; ++i) {
      const dalsegno_batch_response* response = responses->items[i];
      if (response->has_token) {
        ++tokens;
        CHECK(response->logprob <= 0 && isfinite(response->logprob));
      }
      if (response->finish == DALSEGNO_FINISH_NONE) continue;
      ++ends;
      CHECK(response->error_code == 0 && strlen(response->error_message) == 0);
      if (response->uid != 77) {
        CHECK(response->cache == NULL);
        continue;
      }
      CHECK(response->reuse.at >= 24 && response->usage.prompt_tokens == 30);
      MUST(dalsegno_prompt_cache_fork(response->cache, &extracted, error));
    }
    dalsegno_batch_responses_free(responses);
  }
  CHECK(ends == 2 && tokens >= 2 && dalsegno_prompt_cache_size(extracted) >= 30);

  one.has_uid = 0;
  MUST(dalsegno_batch_insert(batch, requests, 1, uids, error));
  dalsegno_prompt_cache* removed = NULL;
  MUST(dalsegno_batch_remove(batch, uids[0], &removed, error));
  CHECK(dalsegno_prompt_cache_size(removed) >= 24);
  FAILS(DALSEGNO_NOT_FOUND, dalsegno_batch_remove(batch, uids[0], NULL, error));
  options.on_text = end_at_once;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_insert(batch, requests, 1, uids, error));
  requests[0] = NULL;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_insert(batch, requests, 1, uids, error));
  dalsegno_prompt_cache_free(removed);
  dalsegno_prompt_cache_free(extracted);
  dalsegno_prompt_cache_free(cache);
  dalsegno_batch_free(batch);
}

void test_logprobs(dalsegno_engine* engine) {
  int32_t ids[24];
  fill(ids, 24, 5);
  dalsegno_logprobs_options options;
  dalsegno_logprobs_options_init(&options, sizeof options);
  options.max_bytes = (uint64_t)1 << 20;
  dalsegno_logprobs* logprobs = NULL;
  MUST(dalsegno_logprobs_create(engine, &options, &logprobs, error));
  MUST(dalsegno_logprobs_cache_kv(logprobs, ids, 16, error));
  dalsegno_logprob_row *row = NULL, *again = NULL, *rows[2] = {NULL, NULL};
  MUST(dalsegno_logprobs_next(logprobs, ids, 20, &row, error));
  double sum = 0;
  for (size_t i = 0; i < row->count; ++i) sum += exp((double)row->logprobs[i]);
  CHECK(row->count == 264 && fabs(sum - 1) < 1e-4);
  MUST(dalsegno_logprobs_clear_kv_cache(logprobs, error));
  const dalsegno_token_span batch[] = {{ids, 20}, {ids, 24}};
  MUST(dalsegno_logprobs_next_batch(logprobs, batch, 2, rows, error));
  CHECK(memcmp(row->logprobs, rows[0]->logprobs, row->count * sizeof(float)) == 0);
  dalsegno_query* query = NULL;
  MUST(dalsegno_logprobs_query(logprobs, ids, 24, &query, error));
  dalsegno_logprob_stats stats;
  MUST(dalsegno_logprobs_stats(logprobs, &stats, sizeof stats, error));
  CHECK(stats.queries == 4 && stats.computed == 2 && stats.rows == 2);
  MUST(dalsegno_logprobs_clear_cache(logprobs, error));
  const dalsegno_token_span bad[] = {{ids, 20}, {NULL, 2}};
  dalsegno_logprob_row* none[2] = {row, row};
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_logprobs_next_batch(logprobs, bad, 2, none, error));
  CHECK(none[0] == NULL && none[1] == NULL);
  dalsegno_logprobs_free(logprobs);  // before its query
  MUST(dalsegno_query_get(query, &again, error));
  CHECK(dalsegno_query_is_ready(query) && again->count == 264);
  dalsegno_query_free(query);
  dalsegno_logprob_row_free(row);
  dalsegno_logprob_row_free(again);
  dalsegno_logprob_row_free(rows[0]);
  dalsegno_logprob_row_free(rows[1]);
}

void test_memory(void) {
  dalsegno_memory_report report;
  MUST(dalsegno_memory(&report, sizeof report, error));
  CHECK(report.engines == 1 && report.limit == (uint64_t)256 << 20 && report.weights > 0 && !report.active);
  MUST(dalsegno_release_all(error));
  MUST(dalsegno_memory(&report, sizeof report, error));
  CHECK(report.kv == 0);
}
