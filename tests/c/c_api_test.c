// c_api_test MODEL FOLDER: the whole C interface, used from C11 on a tiny chat model; files go to the folder.

#include <math.h>

#include "check.h"

static int failures = 0;
dalsegno_error* error = NULL;
const char* folder = NULL;

void check(bool good, const char* what, int line) {
  if (good) return;
  fprintf(stderr, "line %d: %s; last error %d: %s\n", line, what, dalsegno_error_code(error),
          dalsegno_error_message(error));
  ++failures;
}

void path_of(char* path, size_t size, const char* name) {
  snprintf(path, size, "%s/%s", folder, name);
}

static dalsegno_engine* open_engine(const char* model) {
  dalsegno_engine_options options;
  dalsegno_engine_options_init(&options, sizeof options);
  CHECK(options.size == sizeof options && options.activation_bits == 8 && options.step_ms > 0);
  options.model_path = model;
  options.threads = 2;
  options.memory_bytes = (uint64_t)256 << 20;
  dalsegno_engine* engine = NULL;
  MUST(dalsegno_engine_open(&options, NULL, &engine, error));
  return engine;
}

dalsegno_generate_options short_reply(int32_t tokens) {
  dalsegno_generate_options options;
  dalsegno_generate_options_init(&options, sizeof options);
  options.max_tokens = tokens;
  return options;
}

static void test_cache_report(dalsegno_engine* engine) {
  dalsegno_cache_report before, after;
  MUST(dalsegno_engine_cache_report(engine, &before, sizeof before, error));
  int32_t prompt[64];
  for (int32_t i = 0; i < 64; ++i) prompt[i] = 30 + i;
  const dalsegno_generate_options options = short_reply(1);
  for (int turn = 0; turn < 2; ++turn) {
    dalsegno_reply* reply = NULL;
    MUST(dalsegno_engine_generate(engine, prompt, 64, &options, &reply, error));
    dalsegno_reply_free(reply);
  }
  MUST(dalsegno_engine_cache_report(engine, &after, sizeof after, error));
  const dalsegno_reuse_counts* end = &after.by_cause[DALSEGNO_STOPPED_END];
  CHECK(end->requests == before.by_cause[DALSEGNO_STOPPED_END].requests + 1);
  CHECK(end->reused_tokens == before.by_cause[DALSEGNO_STOPPED_END].reused_tokens + 63);
  CHECK(after.reused_tokens.count == before.reused_tokens.count + 2);
  CHECK(after.blocks >= 4 && after.kv_cached > 0 && after.index > 0 && after.evicted_room == 0);
  CHECK(after.reused_tokens.buckets[6] == before.reused_tokens.buckets[6] + 1);  // 63
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_cache_report(NULL, &after, sizeof after, error));
}

static void test_draft_model(const char* model) {
  dalsegno_engine_options options;
  dalsegno_engine_options_init(&options, sizeof options);
  CHECK(options.draft_model_path == NULL || options.draft_model_path[0] == 0);
  options.model_path = options.draft_model_path = model;
  options.memory_bytes = (uint64_t)256 << 20;
  options.threads = 2;
  dalsegno_engine* engine = NULL;
  MUST(dalsegno_engine_open(&options, NULL, &engine, error));
  int32_t prompt[20];
  for (int32_t i = 0; i < 20; ++i) prompt[i] = 30 + i;
  dalsegno_generate_options how = short_reply(200);
  dalsegno_reply* drafted = NULL;
  MUST(dalsegno_engine_generate(engine, prompt, 20, &how, &drafted, error));
  how.speculation = DALSEGNO_SPECULATION_OFF;
  dalsegno_reply* plain = NULL;
  MUST(dalsegno_engine_generate(engine, prompt, 20, &how, &plain, error));
  CHECK(drafted->id_count == plain->id_count &&
        memcmp(drafted->ids, plain->ids, plain->id_count * sizeof(int32_t)) == 0);
  dalsegno_reply_free(drafted);
  dalsegno_reply_free(plain);
  dalsegno_draft_report report;
  MUST(dalsegno_engine_draft_report(engine, &report, sizeof report, error));
  CHECK(report.pass_ms > 0 && report.accepted[0] <= report.proposed[0]);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_draft_report(NULL, &report, sizeof report, error));
  dalsegno_engine_free(engine);
  options.draft_model_path = "/nowhere.gguf";
  FAILS(DALSEGNO_NOT_FOUND, dalsegno_engine_open(&options, NULL, &engine, error));
  CHECK(strncmp(dalsegno_error_message(error), "the draft model: ", 17) == 0);
}

static void test_errors(dalsegno_engine* engine, const char* model) {
  CHECK(strcmp(dalsegno_stopped_name(DALSEGNO_STOPPED_NAMESPACE), "namespace") == 0);
  CHECK(strcmp(dalsegno_finish_name(DALSEGNO_FINISH_LENGTH), "length") == 0);
  CHECK(strcmp(dalsegno_tools_ended_name(DALSEGNO_TOOLS_REPEATED), "repeated") == 0);
  CHECK(strcmp(dalsegno_finish_name(99), "unknown") == 0);
  CHECK(strlen(dalsegno_version()) >= 5 && dalsegno_numerics_version() >= 1);

  dalsegno_engine* none = engine;
  dalsegno_engine_options options;
  dalsegno_engine_options_init(&options, sizeof options);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_open(&options, NULL, &none, error));  // no path
  CHECK(none == NULL);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_open(NULL, NULL, &none, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_open(&options, NULL, NULL, error));
  options.memory_bytes = (uint64_t)256 << 20;
  options.model_path = "/nowhere/model.gguf";
  FAILS(DALSEGNO_NOT_FOUND, dalsegno_engine_open(&options, NULL, &none, error));
  CHECK(strstr(dalsegno_error_message(error), "/nowhere/model.gguf") != NULL);
  CHECK(dalsegno_engine_open(&options, NULL, &none, NULL) == DALSEGNO_NOT_FOUND);  // without a sentence
  options.kv.format = 17;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_open(&options, NULL, &none, error));
  // Options of a later header, and of an earlier one.
  options.size = sizeof options + 8;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_open(&options, NULL, &none, error));
  struct {
    dalsegno_engine_options known;
    uint64_t later;
  } longer;
  dalsegno_engine_options_init(&longer.known, sizeof longer);
  CHECK(longer.known.size == sizeof longer && longer.later == 0);

  dalsegno_cancel* cancel = NULL;
  MUST(dalsegno_cancel_new(&cancel, error));
  CHECK(dalsegno_error_code(error) == DALSEGNO_OK && strlen(dalsegno_error_message(error)) == 0);
  MUST(dalsegno_cancel_request(cancel, error));
  dalsegno_engine_options_init(&options, sizeof options);
  options.model_path = model;
  options.threads = 2;
  options.memory_bytes = (uint64_t)256 << 20;
  FAILS(DALSEGNO_CANCELLED, dalsegno_engine_open(&options, cancel, &none, error));
  dalsegno_cancel_free(cancel);

  const int32_t token = 65;
  dalsegno_reply* reply = NULL;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(engine, NULL, 3, NULL, &reply, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(engine, &token, 0, NULL, &reply, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(NULL, &token, 1, NULL, &reply, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(engine, &token, 1, NULL, NULL, error));
  dalsegno_generate_options with_null = short_reply(1);
  const char* const stop[] = {NULL};
  with_null.stop = stop;
  with_null.stop_count = 1;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(engine, &token, 1, &with_null, &reply, error));
}

// Every function takes NULL for every pointer.
static void test_nulls(void) {
  dalsegno_explanation explanation;
  int32_t number = 0;
  uint64_t uid = 0;
  dalsegno_session* session = NULL;
  dalsegno_prompt_cache* cache = NULL;
  dalsegno_logprob_row* row = NULL;
  dalsegno_text* text = NULL;
  dalsegno_tokens* tokens = NULL;
  dalsegno_reply* reply = NULL;
  dalsegno_tools_reply* tools_reply = NULL;
  dalsegno_batch_responses* responses = NULL;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_reset_cache(NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT,
        dalsegno_engine_explain(NULL, &number, 1, NULL, &explanation, sizeof explanation, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_tokenizer_encode(NULL, "", 0, 0, 0, &tokens, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_tokenizer_decode(NULL, &number, 1, &text, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_tokenizer_render(NULL, "[]", 1, &text, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_tokenizer_open(NULL, NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_create(NULL, NULL, &session, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_respond(NULL, "", NULL, &reply, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_reply(NULL, NULL, &reply, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_run_tools(NULL, "", NULL, 8, &tools_reply, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_prewarm(NULL, NULL, &number, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_fork(NULL, 0, &session, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_rewind(NULL, 0, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_edit(NULL, 1, "", error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_set_transcript(NULL, NULL, 0, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_trim(NULL, 1, NULL, NULL, 0, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_save(NULL, "x", error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_load(NULL, "x", NULL, 0, NULL, &session, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_add_tag(NULL, "x", error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_tags(NULL, NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_conversations_open(NULL, NULL, NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_conversation_close(NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_prompt_cache_make(NULL, &number, 1, NULL, &cache, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_prompt_cache_load(NULL, "x", NULL, &cache, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_prompt_cache_save(NULL, "x", error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_prompt_cache_fork(NULL, &cache, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_prompt_cache_trim(NULL, 1, NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_insert(NULL, NULL, 0, &uid, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_next(NULL, &responses, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_extract_cache(NULL, 1, &cache, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_batch_remove(NULL, 1, NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_logprobs_next(NULL, &number, 1, &row, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_logprobs_next_batch(NULL, NULL, 1, &row, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_query_get(NULL, &row, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_logprobs_cache_kv(NULL, &number, 1, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_logprobs_clear_cache(NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_memory(NULL, 0, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_models_acquire(NULL, NULL, NULL, NULL, error));
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_tool_answer(NULL, "", error));
  dalsegno_engine_options_init(NULL, 0);
  dalsegno_engine_free(NULL);
  dalsegno_session_free(NULL);
  dalsegno_reply_free(NULL);
  dalsegno_error_free(NULL);
  CHECK(dalsegno_engine_context(NULL) == 0 && dalsegno_session_turns(NULL) == 0 && dalsegno_query_is_ready(NULL) == 0);
  CHECK(dalsegno_conversation_session(NULL) == NULL && dalsegno_prompt_cache_size(NULL) == 0);
}

static void test_tokenizer(dalsegno_engine* engine, const char* model) {
  dalsegno_tokenizer *tokenizer = NULL, *of_file = NULL;
  MUST(dalsegno_engine_tokenizer(engine, &tokenizer, error));
  MUST(dalsegno_tokenizer_open(model, &of_file, error));
  CHECK(dalsegno_tokenizer_vocabulary_size(of_file) == 264 && dalsegno_tokenizer_has_template(of_file));
  dalsegno_tokens* ids = NULL;
  dalsegno_text* text = NULL;
  MUST(dalsegno_tokenizer_encode(of_file, "a\0b", 3, 0, 0, &ids, error));
  CHECK(ids->count == 3);
  MUST(dalsegno_tokenizer_decode(tokenizer, ids->ids, ids->count, &text, error));
  CHECK(text->size == 3 && memcmp(text->data, "a\0b", 4) == 0);
  dalsegno_text_free(text);
  MUST(dalsegno_tokenizer_render(tokenizer, "[{\"role\":\"user\",\"content\":\"hello\"}]", 1, &text, error));
  CHECK(strcmp(text->data, "<|bos|>user: hello<|eos|>\n<|bos|>assistant: ") == 0);
  dalsegno_text_free(text);
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_tokenizer_render(tokenizer, "[", 1, &text, error));
  CHECK(text == NULL);
  dalsegno_tokens_free(ids);
  dalsegno_tokenizer_free(tokenizer);
  dalsegno_tokenizer_free(of_file);
}

// What on_text and on_prefill were told.
typedef struct heard {
  char text[4096];
  size_t size;
  int32_t done, total, calls;
  int32_t last_call;  // which call of on_text ends the reply; 0: none
} heard;

static int32_t hear_text(void* user, const char* text, size_t size) {
  heard* all = user;
  if (all->size + size < sizeof all->text) memcpy(all->text + all->size, text, size + 1);
  all->size += size;
  return ++all->calls != all->last_call;
}

static int32_t hear_prefill(void* user, int32_t done, int32_t total) {
  heard* all = user;
  all->done = done;
  all->total = total;
  return 1;
}

static void test_generate(dalsegno_engine* engine) {
  int32_t prompt[40];
  for (int32_t i = 0; i < 40; ++i) prompt[i] = 3 + i * 7 % 250;
  heard all = {0};
  dalsegno_generate_options options = short_reply(12);
  options.user = &all;
  options.on_text = hear_text;
  options.on_prefill = hear_prefill;
  options.logprobs = 1;
  dalsegno_reply *first = NULL, *again = NULL;
  MUST(dalsegno_engine_generate(engine, prompt, 40, &options, &first, error));
  CHECK(first->usage.prompt_tokens == 40 && first->usage.reused_tokens == 0 && all.done == 40 && all.total == 40);
  CHECK(first->logprobs != NULL && first->prompt_id_count == 40 && strcmp(first->text, all.text) == 0);
  CHECK(strlen(first->reuse.tier) > 0 && first->id_count <= 12);
  options = short_reply(12);
  options.seed = 7;
  options.temperature = 0;
  MUST(dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));
  CHECK(again->usage.reused_tokens == 39 && again->logprobs == NULL && strcmp(again->reuse.tier, "ram") == 0);
  CHECK(again->id_count == first->id_count &&
        memcmp(again->ids, first->ids, first->id_count * sizeof *first->ids) == 0);
  dalsegno_reply_free(again);
  // Sampling options arrive: a bias that forbids the greedy first token.
  const dalsegno_bias bias = {first->ids[0], -INFINITY};
  options.logit_bias = &bias;
  options.logit_bias_count = 1;
  MUST(dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));
  CHECK(again->id_count > 0 && again->ids[0] != first->ids[0]);
  dalsegno_reply_free(again);

  // Constraints too.
  options = short_reply(12);
  options.constraint = DALSEGNO_CONSTRAINT_REGEX;
  options.constraint_text = "[xy]{3}";
  MUST(dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));
  CHECK(again->finish == DALSEGNO_FINISH_STOP && strlen(again->text) == 3 && strspn(again->text, "xy") == 3);
  dalsegno_reply_free(again);
  const char* const choices[] = {"one", "two"};
  options.constraint = DALSEGNO_CONSTRAINT_CHOICES;
  options.constraint_text = NULL;
  options.choices = choices;
  options.choice_count = 2;
  MUST(dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));
  CHECK(strcmp(again->text, "one") == 0 || strcmp(again->text, "two") == 0);
  dalsegno_reply_free(again);
  options.constraint = 9;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));

  // Guesses change no token.
  options = short_reply(12);
  options.speculation = DALSEGNO_SPECULATION_OFF;
  MUST(dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));
  CHECK(again->proposed_tokens == 0 && again->accepted_tokens == 0);
  CHECK(again->id_count == first->id_count &&
        memcmp(again->ids, first->ids, first->id_count * sizeof *first->ids) == 0);
  dalsegno_reply_free(again);
  options.speculation = 2;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_engine_generate(engine, prompt, 40, &options, &again, error));

  dalsegno_explanation explanation;
  MUST(dalsegno_engine_explain(engine, prompt, 40, NULL, &explanation, sizeof explanation, error));
  CHECK(explanation.prompt_tokens == 40 && explanation.reused_tokens == 39);
  // A caller whose header knows the first field only.
  int32_t known[2] = {-1, -1};
  MUST(dalsegno_engine_explain(engine, prompt, 40, NULL, (dalsegno_explanation*)(void*)known, sizeof *known, error));
  CHECK(known[0] == 40 && known[1] == -1);
  MUST(dalsegno_engine_explain(engine, prompt, 40, "tenant", &explanation, sizeof explanation, error));
  CHECK(explanation.reused_tokens == 0);

  dalsegno_pin* pin = NULL;
  MUST(dalsegno_engine_pin(engine, prompt, 40, NULL, &pin, error));
  CHECK(dalsegno_pin_tokens(pin) == 32);
  MUST(dalsegno_engine_reset_cache(engine, error));
  MUST(dalsegno_engine_explain(engine, prompt, 40, NULL, &explanation, sizeof explanation, error));
  CHECK(explanation.reused_tokens == 32);
  dalsegno_pin_free(pin);
  MUST(dalsegno_engine_reset_cache(engine, error));
  MUST(dalsegno_engine_explain(engine, prompt, 40, NULL, &explanation, sizeof explanation, error));
  CHECK(explanation.reused_tokens == 0);
  dalsegno_audit* audit = NULL;
  MUST(dalsegno_engine_audit_cache(engine, 4, &audit, error));
  CHECK(audit->mismatched == 0 && strlen(audit->last_mismatch) == 0);
  dalsegno_audit_free(audit);
  dalsegno_reply_free(first);
}

// Makes the model say one thing after another, a byte a token.
typedef struct script {
  int32_t ids[512];
  size_t count, at;
} script;

static void follow_script(void* user, const int32_t* tokens, size_t token_count, float* logits, size_t vocabulary) {
  script* all = user;
  (void)tokens;
  (void)token_count;
  for (size_t i = 0; i < vocabulary; ++i) logits[i] = -100;
  if (all->at < all->count) logits[all->ids[all->at++]] = 0;
}

static void will_say(script* all, const dalsegno_tokenizer* tokenizer, const char* text) {
  for (; *text != '\0'; ++text) {
    dalsegno_tokens* id = NULL;
    MUST(dalsegno_tokenizer_encode(tokenizer, text, 1, 0, 0, &id, error));
    all->ids[all->count++] = id->ids[0];
    dalsegno_tokens_free(id);
  }
  for (int32_t id = 0; id < dalsegno_tokenizer_vocabulary_size(tokenizer); ++id) {
    if (!dalsegno_tokenizer_is_end_of_turn(tokenizer, id)) continue;
    all->ids[all->count++] = id;
    break;
  }
}

static void test_tool_choice(dalsegno_engine* engine) {
  const dalsegno_tool tool = {"time", "the time", "{\"type\":\"object\",\"additionalProperties\":false}", NULL, NULL};
  dalsegno_session_options options;
  dalsegno_session_options_init(&options, sizeof options);
  options.tools = &tool;
  options.tool_count = 1;
  options.tool_choice = DALSEGNO_TOOL_CHOICE_NONE;
  dalsegno_session* session = NULL;
  MUST(dalsegno_session_create(engine, &options, &session, error));
  dalsegno_generate_options generate = short_reply(400);
  generate.tool_choice = DALSEGNO_TOOL_CHOICE_NAMED;
  generate.tool_choice_name = "time";
  dalsegno_reply* reply = NULL;
  MUST(dalsegno_session_respond(session, "What time is it?", &generate, &reply, error));
  CHECK(strncmp(reply->text, "<tool_call>", 11) == 0);
  dalsegno_reply_free(reply);
  dalsegno_generate_options last;
  MUST(dalsegno_session_last_options(session, &last, sizeof last, error));
  CHECK(last.tool_choice == DALSEGNO_TOOL_CHOICE_NAMED && strcmp(last.tool_choice_name, "time") == 0);
  generate.tool_choice_name = "date";
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_respond(session, "x", &generate, &reply, error));
  generate.tool_choice = 9;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_respond(session, "x", &generate, &reply, error));
  dalsegno_session_free(session);

  dalsegno_generate_options_init(&generate, sizeof generate);
  generate.max_tokens = 400;
  generate.constraint = DALSEGNO_CONSTRAINT_TOOL_CALLS;
  generate.constraint_text =
      "{\"style\":\"llama3\",\"tools\":[{\"name\":\"time\",\"parameters\":{}}],\"tool_choice\":\"required\"}";
  const int32_t prompt[] = {1, 2, 3};
  MUST(dalsegno_engine_generate(engine, prompt, 3, &generate, &reply, error));
  CHECK(reply->text[0] == '{' || reply->text[0] == '<');
  dalsegno_reply_free(reply);
}

static int32_t tell_time(void* user, const char* arguments_json, dalsegno_tool_result* result) {
  ++*(int32_t*)user;
  if (strstr(arguments_json, "Atlantis") != NULL) {
    (void)dalsegno_tool_answer(result, "there is no such place", NULL);
    return 1;
  }
  return dalsegno_tool_answer(result, "noon", NULL);
}

static void test_tools(dalsegno_engine* engine) {
  dalsegno_tokenizer* tokenizer = NULL;
  MUST(dalsegno_engine_tokenizer(engine, &tokenizer, error));
  script all = {.count = 0};
  will_say(&all, tokenizer,
           "<tool_call>{\"name\":\"time\",\"arguments\":{\"place\":\"Rome\"}}</tool_call>"
           "<tool_call>{\"name\":\"time\",\"arguments\":{\"place\":\"Atlantis\"}}</tool_call>");
  will_say(&all, tokenizer, "It is noon.");
  int32_t calls = 0;
  const dalsegno_tool tool = {"time", "the time at a place", NULL, tell_time, &calls};
  dalsegno_session_options options;
  dalsegno_session_options_init(&options, sizeof options);
  options.instructions = "You know the time.";
  options.tools = &tool;
  options.tool_count = 1;
  dalsegno_session* session = NULL;
  MUST(dalsegno_session_create(engine, &options, &session, error));
  // Acceptance of prewarming: the first turn reuses all of it.
  int32_t cached = 0;
  MUST(dalsegno_session_prewarm(session, NULL, &cached, error));
  CHECK(cached > 20);
  dalsegno_generate_options generate = short_reply(400);
  generate.logits_processor = follow_script;
  generate.user = &all;
  CHECK(options.strict == 1 && generate.tool_choice == DALSEGNO_TOOL_CHOICE_DEFAULT);
  dalsegno_tools_reply* reply = NULL;
  MUST(dalsegno_session_run_tools(session, "What time is it in Rome?", &generate, 8, &reply, error));
  CHECK(calls == 2 && reply->run_count == 2 && reply->rounds == 1 && reply->ended == DALSEGNO_TOOLS_ANSWERED);
  CHECK(strcmp(reply->reply->text, "It is noon.") == 0);
  CHECK(strcmp(reply->runs[0].name, "time") == 0 && strcmp(reply->runs[0].result, "noon") == 0 &&
        !reply->runs[0].failed);
  CHECK(reply->runs[1].failed && strstr(reply->runs[1].result, "there is no such place") != NULL);
  dalsegno_tools_reply_free(reply);
  dalsegno_reply_report report;
  MUST(dalsegno_session_report(session, 0, &report, sizeof report, error));
  CHECK(report.usage.reused_tokens >= cached);
  dalsegno_session_free(session);
  options.call_style = 12;
  FAILS(DALSEGNO_INVALID_ARGUMENT, dalsegno_session_create(engine, &options, &session, error));
  dalsegno_tokenizer_free(tokenizer);
}

// The registry holds one model; an engine outlives its registry, and what is made on it outlives the engine.
static void test_models(const char* model) {
  dalsegno_models* models = NULL;
  MUST(dalsegno_models_new(NULL, &models, error));
  dalsegno_engine_options options;
  dalsegno_engine_options_init(&options, sizeof options);
  options.model_path = model;
  options.threads = 2;
  options.memory_bytes = (uint64_t)256 << 20;
  dalsegno_engine *engine = NULL, *same = NULL;
  MUST(dalsegno_models_acquire(models, &options, NULL, &engine, error));
  MUST(dalsegno_models_acquire(models, &options, NULL, &same, error));
  dalsegno_model_list* list = NULL;
  MUST(dalsegno_models_report(models, &list, error));
  CHECK(list->count == 1 && list->items[0].users == 2 && list->items[0].bytes > 0 && !list->items[0].loading);
  CHECK(strcmp(list->items[0].path, model) == 0);
  dalsegno_model_list_free(list);
  int32_t closed = -1;
  MUST(dalsegno_models_close_idle(models, &closed, error));
  CHECK(closed == 0);
  dalsegno_engine_free(same);
  dalsegno_session* session = NULL;
  MUST(dalsegno_session_create(engine, NULL, &session, error));
  dalsegno_engine_free(engine);
  MUST(dalsegno_models_close_idle(models, &closed, error));
  CHECK(closed == 0);  // the session uses it
  dalsegno_session_free(session);
  MUST(dalsegno_models_close_idle(models, &closed, error));
  CHECK(closed == 1);
  dalsegno_models_free(models);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: c_api_test MODEL FOLDER\n");
    return 2;
  }
  const char* model = argv[1];
  folder = argv[2];
  error = dalsegno_error_new();
  test_nulls();
  test_models(model);
  test_draft_model(model);
  dalsegno_engine* engine = open_engine(model);
  test_errors(engine, model);
  test_cache_report(engine);
  test_tokenizer(engine, model);
  test_generate(engine);
  test_tools(engine);
  test_tool_choice(engine);
  test_session(engine);
  test_conversations(engine);
  test_prompt_cache(engine);
  test_batch(engine);
  test_logprobs(engine);
  test_memory();
  dalsegno_engine_free(engine);
  dalsegno_memory_report report;
  MUST(dalsegno_memory(&report, sizeof report, error));
  CHECK(report.engines == 0 && report.limit == 0);
  dalsegno_error_free(error);
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
