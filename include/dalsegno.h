#ifndef DALSEGNO_H
#define DALSEGNO_H

// The C interface of Dal Segno, for C11 and for whatever binds C. What things mean is said in dalsegno/*.hpp, whose
// names these are. The rules that hold for all of it:
//
// Errors. A call that can fail returns 0 or a code, and puts the sentence into the dalsegno_error it was given, which
// may be NULL; no state is kept per thread. On an error every `out` is NULL or 0 and nothing has changed, unless
// said otherwise. A NULL where something is needed is DALSEGNO_INVALID_ARGUMENT. No exception leaves the library.
//
// Ownership. What a call puts into `out` belongs to the caller, who gives it to the matching _free; NULL may be freed.
// Pointers inside a result live as long as the result. What is passed in is copied, but for `user` pointers and the
// functions that take them. An engine stays open until all that was made on it has been freed too, so the order
// in which things are freed is free.
//
// Growth. Options begin with their size: the matching _init(&options, sizeof options) fills in every default, and
// NULL options are the defaults. Reports are written into the caller's memory of the size he names. Both, and results
// allocated here, may get more fields at their end; the structs without a size or a _free stay as they are.
//
// Text is UTF-8 and ends with a zero byte, also where its size is given; NULL is "" where it may be missing. Yes or no
// is an int32_t: 0 is no. Threads. Any, but one handle is used by one call at a time, unless it is a dalsegno_engine,
// dalsegno_tokenizer, dalsegno_cancel, dalsegno_logprobs, dalsegno_conversations, dalsegno_models, or said otherwise.
// Callbacks run on the thread of the call they belong to, must return normally, and must not free what is in use.

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DALSEGNO_API __attribute__((visibility("default")))
#else
#define DALSEGNO_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
  DALSEGNO_OK = 0,
  DALSEGNO_INVALID_ARGUMENT = 1,  // the caller asked for something impossible
  DALSEGNO_NOT_FOUND = 2,         // a file, model or key that is not there
  DALSEGNO_CORRUPT = 3,           // data that contradicts its format
  DALSEGNO_UNSUPPORTED = 4,       // well-formed, but nothing here can run it
  DALSEGNO_EXHAUSTED = 5,         // a budget, pool or limit is used up
  DALSEGNO_CANCELLED = 6,         // the caller ended it
  DALSEGNO_NUMERIC = 7,           // NaN or infinity where a finite value is required
  DALSEGNO_IO = 8,                // the operating system refused
  DALSEGNO_INTERNAL = 9           // a bug here
};
enum { DALSEGNO_KV_BF16 = 0, DALSEGNO_KV_F32 = 1, DALSEGNO_KV_Q8 = 2, DALSEGNO_KV_Q4 = 3 };
enum { DALSEGNO_MEMORY_AUTOMATIC = 0, DALSEGNO_MEMORY_IDLE = 1, DALSEGNO_MEMORY_UNCONSTRAINED = 2 };
enum {
  DALSEGNO_STOPPED_END = 0,
  DALSEGNO_STOPPED_COLD = 1,
  DALSEGNO_STOPPED_DIVERGED = 2,
  DALSEGNO_STOPPED_EVICTED = 3,
  DALSEGNO_STOPPED_WINDOW = 4,
  DALSEGNO_STOPPED_NAMESPACE = 5,
  DALSEGNO_STOPPED_OFF = 6
};
enum {
  DALSEGNO_FINISH_NONE = -1,  // of a batch's response: it goes on
  DALSEGNO_FINISH_STOP = 0,
  DALSEGNO_FINISH_LENGTH = 1,
  DALSEGNO_FINISH_CANCELLED = 2,
  DALSEGNO_FINISH_DEADLINE = 3,
  DALSEGNO_FINISH_ERROR = 4,
  DALSEGNO_FINISH_DEAD_END = 5  // no token that the constraint allows can be drawn
};
enum {
  DALSEGNO_TOOLS_ANSWERED = 0,
  DALSEGNO_TOOLS_ROUNDS = 1,
  DALSEGNO_TOOLS_REPEATED = 2,
  DALSEGNO_TOOLS_UNFINISHED = 3
};
enum { DALSEGNO_STYLE_AUTOMATIC = 0, DALSEGNO_STYLE_HERMES = 1, DALSEGNO_STYLE_LLAMA3 = 2, DALSEGNO_STYLE_JSON = 3 };
enum { DALSEGNO_DRAWS_INDEPENDENT = 0, DALSEGNO_DRAWS_SAME = 1 };
enum { DALSEGNO_FROM_CREATED = 0, DALSEGNO_FROM_MEMORY = 1, DALSEGNO_FROM_DISK = 2 };

typedef struct dalsegno_error dalsegno_error;
typedef struct dalsegno_cancel dalsegno_cancel;
typedef struct dalsegno_engine dalsegno_engine;
typedef struct dalsegno_tokenizer dalsegno_tokenizer;
typedef struct dalsegno_pin dalsegno_pin;
typedef struct dalsegno_prompt_cache dalsegno_prompt_cache;
typedef struct dalsegno_session dalsegno_session;
typedef struct dalsegno_tool_result dalsegno_tool_result;
typedef struct dalsegno_conversations dalsegno_conversations;
typedef struct dalsegno_conversation dalsegno_conversation;
typedef struct dalsegno_batch dalsegno_batch;
typedef struct dalsegno_logprobs dalsegno_logprobs;
typedef struct dalsegno_query dalsegno_query;
typedef struct dalsegno_models dalsegno_models;

// ---- versions, errors, words

DALSEGNO_API const char* dalsegno_version(void);  // "0.1.0"
// Changes whenever a logit bit may change for the same tokens.
DALSEGNO_API int32_t dalsegno_numerics_version(void);

DALSEGNO_API dalsegno_error* dalsegno_error_new(void);  // NULL: no memory
DALSEGNO_API void dalsegno_error_free(dalsegno_error* error);
// Of the latest call it was given to: 0 and "" after a success. The message lives until the next one.
DALSEGNO_API int32_t dalsegno_error_code(const dalsegno_error* error);
DALSEGNO_API const char* dalsegno_error_message(const dalsegno_error* error);

// The words used in JSON and reports; "unknown" for other numbers.
DALSEGNO_API const char* dalsegno_stopped_name(int32_t stopped);
DALSEGNO_API const char* dalsegno_finish_name(int32_t finish);
DALSEGNO_API const char* dalsegno_tools_ended_name(int32_t ended);

// Ends the calls it was given to, also those that are yet to come. Threads: any.
DALSEGNO_API int32_t dalsegno_cancel_new(dalsegno_cancel** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_cancel_request(dalsegno_cancel* cancel, dalsegno_error* error);
DALSEGNO_API void dalsegno_cancel_free(dalsegno_cancel* cancel);

// ---- results that many calls give

typedef struct dalsegno_text {
  const char* data;
  size_t size;  // without the zero byte
} dalsegno_text;
DALSEGNO_API void dalsegno_text_free(dalsegno_text* text);

typedef struct dalsegno_texts {
  const char* const* items;
  size_t count;
} dalsegno_texts;
DALSEGNO_API void dalsegno_texts_free(dalsegno_texts* texts);

typedef struct dalsegno_tokens {
  const int32_t* ids;
  size_t count;
} dalsegno_tokens;
DALSEGNO_API void dalsegno_tokens_free(dalsegno_tokens* tokens);

typedef struct dalsegno_usage {
  int32_t prompt_tokens, reused_tokens, prefilled_tokens, reply_tokens;
} dalsegno_usage;

typedef struct dalsegno_reuse {
  const char* tier;  // "ram", "none"; lives forever
  int32_t stopped;   // DALSEGNO_STOPPED_*: why no more
  int32_t at;        // the first token that was not cached
  int32_t resumed;   // where prefill began
  double saved_ms;
} dalsegno_reuse;

typedef struct dalsegno_explanation {
  int32_t prompt_tokens, reused_tokens;
  dalsegno_reuse reuse;
  double ttft_ms;
} dalsegno_explanation;

typedef struct dalsegno_reply {
  const char* text;
  size_t text_size;
  const int32_t* ids;  // the reply's, without an end-of-turn token
  size_t id_count;
  const double* logprobs;  // [id_count] if asked for, otherwise NULL
  const int32_t* prompt_ids;
  size_t prompt_id_count;
  int32_t finish;  // DALSEGNO_FINISH_*
  dalsegno_usage usage;
  dalsegno_reuse reuse;
  double ttft_ms;
  double tokens_per_second;
  int32_t proposed_tokens, accepted_tokens;  // of speculation: guessed, and of these right
} dalsegno_reply;
DALSEGNO_API void dalsegno_reply_free(dalsegno_reply* reply);

// ---- engine

typedef struct dalsegno_kv {
  int32_t format;  // DALSEGNO_KV_*
  int32_t group_size, start, max_size, keep;
} dalsegno_kv;

typedef struct dalsegno_quota {
  const char* salt;
  uint64_t bytes;
} dalsegno_quota;

typedef struct dalsegno_engine_options {
  size_t size;
  const char* model_path;  // a GGUF file; needed
  dalsegno_kv kv;
  int32_t activation_bits;  // 8 or 16
  int32_t context;          // 0: what the model was trained for
  int32_t memory_preset;    // DALSEGNO_MEMORY_*
  uint64_t memory_bytes;    // of the process, weights included; 0: by the preset
  int64_t idle_bytes;       // -1: by the preset, or memory_bytes if those are given
  double audit_share;
  const dalsegno_quota* quotas;
  size_t quota_count;
  uint64_t quota_bytes;
  double step_ms;
  int32_t threads;               // 0: one per core
  const char* eviction;          // "value" or "lru"
  const char* draft_model_path;  // a small GGUF model with the same vocabulary, which guesses; NULL: none
} dalsegno_engine_options;
DALSEGNO_API void dalsegno_engine_options_init(dalsegno_engine_options* options, size_t size);

// cancel: may be NULL.
DALSEGNO_API int32_t dalsegno_engine_open(const dalsegno_engine_options* options, dalsegno_cancel* cancel,
                                          dalsegno_engine** out, dalsegno_error* error);
DALSEGNO_API void dalsegno_engine_free(dalsegno_engine* engine);
DALSEGNO_API int32_t dalsegno_engine_context(const dalsegno_engine* engine);  // in tokens; 0 of NULL
DALSEGNO_API int32_t dalsegno_engine_reset_cache(dalsegno_engine* engine, dalsegno_error* error);

// Counts of values by size: bucket 0 of 0, bucket i from 2^(i-1) on and below 2^i, the last one of all greater ones
// too.
enum { DALSEGNO_HISTOGRAM_BUCKETS = 33, DALSEGNO_STOPPED_COUNT = 7 };
typedef struct dalsegno_histogram {
  uint64_t buckets[DALSEGNO_HISTOGRAM_BUCKETS];
  uint64_t count, sum;
} dalsegno_histogram;
typedef struct dalsegno_reuse_counts {
  uint64_t requests, reused_tokens, missing_tokens;
} dalsegno_reuse_counts;
// What the cache has done since the engine was opened, and what it holds now. Queries of log-probabilities and prefixes
// computed for a pin count as requests.
typedef struct dalsegno_cache_report {
  dalsegno_reuse_counts by_cause[DALSEGNO_STOPPED_COUNT];  // [DALSEGNO_STOPPED_...]: why their reuse ended
  dalsegno_histogram reused_tokens, missing_tokens;        // of each request's prompt
  uint64_t continued;    // requests that a cache they were given took further than what was shared
  uint64_t waits;        // times that a request waited for another to compute the same blocks
  uint64_t preemptions;  // times that a running request gave its room up to others
  // Blocks that went, by why: for others; for others of their salt, which was over its quota; for a memory limit; by
  // their time to live; by being cleared. Checkpoints lose the K/V of sliding-window layers alone.
  uint64_t evicted_room, evicted_quota, evicted_limit, evicted_expired, evicted_cleared, evicted_checkpoints;
  dalsegno_histogram unused_for;  // requests between a block's last use and its eviction for room or a quota
  uint64_t blocks, window_blocks, checkpoints;               // now: of 16 tokens; with K/V of sliding-window layers too
  uint64_t kv_cached, kv_in_use, kv_pinned, kv_free, index;  // now, in bytes; what is pinned is in use
} dalsegno_cache_report;
DALSEGNO_API int32_t dalsegno_engine_cache_report(dalsegno_engine* engine, dalsegno_cache_report* out, size_t out_size,
                                                  dalsegno_error* error);

enum { DALSEGNO_DRAFT_GUESSES = 16 };
// What the draft model has done since the engine was opened; zeros without one.
typedef struct dalsegno_draft_report {
  // Tokens that it guessed, and those of them that were right, by their place in a draft.
  uint64_t proposed[DALSEGNO_DRAFT_GUESSES], accepted[DALSEGNO_DRAFT_GUESSES];
  uint64_t trials;  // guesses that were not known to pay, made to see whether they do
  uint64_t passes;  // of the model
  uint64_t read;    // tokens that it read before it could guess
  double seconds;   // that passes took
  double pass_ms;   // of one for one sequence, lately
  int32_t pays;     // whether it guesses at present
} dalsegno_draft_report;
DALSEGNO_API int32_t dalsegno_engine_draft_report(dalsegno_engine* engine, dalsegno_draft_report* out, size_t out_size,
                                                  dalsegno_error* error);

typedef struct dalsegno_audit {
  uint64_t checked, skipped, mismatched;
  const char* last_mismatch;
} dalsegno_audit;
DALSEGNO_API int32_t dalsegno_engine_audit_cache(dalsegno_engine* engine, int32_t blocks, dalsegno_audit** out,
                                                 dalsegno_error* error);
DALSEGNO_API void dalsegno_audit_free(dalsegno_audit* audit);

typedef struct dalsegno_bias {
  int32_t id;
  float bias;  // -INFINITY forbids the token
} dalsegno_bias;

enum {
  DALSEGNO_CONSTRAINT_NONE = 0,
  DALSEGNO_CONSTRAINT_JSON_SCHEMA = 1,
  DALSEGNO_CONSTRAINT_REGEX = 2,
  DALSEGNO_CONSTRAINT_LARK = 3,
  DALSEGNO_CONSTRAINT_CHOICES = 4,
  // {"style":"hermes","tools":[{"name":...,"parameters":a schema}],"tool_choice":"auto"}; other styles: "llama3",
  // "json"; other choices: "required", "none", {"name":...}. The calls in a text; other text is free.
  DALSEGNO_CONSTRAINT_TOOL_CALLS = 5
};

// Which tools a reply calls. Default: as the session says; of a session: automatic.
enum {
  DALSEGNO_TOOL_CHOICE_DEFAULT = 0,
  DALSEGNO_TOOL_CHOICE_AUTOMATIC = 1,  // it may answer, or call
  DALSEGNO_TOOL_CHOICE_REQUIRED = 2,   // it is nothing but calls
  DALSEGNO_TOOL_CHOICE_NONE = 3,       // no call can be written
  DALSEGNO_TOOL_CHOICE_NAMED = 4       // nothing but calls of tool_choice_name
};

// Whether the next tokens of a reply are guessed: where that is faster, or never. It changes no token.
enum { DALSEGNO_SPECULATION_AUTOMATIC = 0, DALSEGNO_SPECULATION_OFF = 1 };

// How a reply is made. Callbacks return 0 to end it.
typedef struct dalsegno_generate_options {
  size_t size;
  int32_t max_tokens;
  float temperature, top_p;
  int32_t top_k;
  float min_p, typical_p, repeat_penalty;
  int32_t repeat_last;
  float presence_penalty, frequency_penalty;
  float dry_multiplier, dry_base;
  int32_t dry_allowed_length, dry_last;
  const char* const* dry_breakers;
  size_t dry_breaker_count;
  const dalsegno_bias* logit_bias;
  size_t logit_bias_count;
  uint64_t seed, stream;
  const char* const* stop;
  size_t stop_count;
  int32_t logprobs;
  int32_t reuse;
  const char* salt;
  int32_t priority;
  double ttl_seconds;
  int32_t urgency;
  double deadline_seconds;
  int32_t chunk;
  void* user;  // handed to the three below
  // New text, whole UTF-8 characters. Not of batches, as the next one.
  int32_t (*on_text)(void* user, const char* text, size_t text_size);
  // Prompt tokens done and in all, after each step of prefill.
  int32_t (*on_prefill)(void* user, int32_t done, int32_t total);
  // Changes the logits of the next token. Runs on the engine's thread, until the reply has ended: it must not call
  // the engine, and everything waits for it.
  void (*logits_processor)(void* user, const int32_t* tokens, size_t token_count, float* logits, size_t vocabulary);
  // What the reply's text must look like: a schema, pattern or grammar as text, or one of some choices.
  int32_t constraint;           // DALSEGNO_CONSTRAINT_*
  const char* constraint_text;  // of all kinds but choices
  const char* const* choices;
  size_t choice_count;
  int32_t constraint_continues;  // tokens at the prompt's end that are text of the grammar already
  int32_t speculation;           // DALSEGNO_SPECULATION_*
  int32_t tool_choice;           // DALSEGNO_TOOL_CHOICE_*, in sessions with tools alone
  const char* tool_choice_name;
} dalsegno_generate_options;
DALSEGNO_API void dalsegno_generate_options_init(dalsegno_generate_options* options, size_t size);

DALSEGNO_API int32_t dalsegno_engine_generate(dalsegno_engine* engine, const int32_t* prompt, size_t prompt_count,
                                              const dalsegno_generate_options* options, dalsegno_reply** out,
                                              dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_engine_explain(dalsegno_engine* engine, const int32_t* prompt, size_t prompt_count,
                                             const char* salt, dalsegno_explanation* out, size_t out_size,
                                             dalsegno_error* error);
// What was pinned is let go when the pin is freed.
DALSEGNO_API int32_t dalsegno_engine_pin(dalsegno_engine* engine, const int32_t* prefix, size_t prefix_count,
                                         const char* salt, dalsegno_pin** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_pin_tokens(const dalsegno_pin* pin);
DALSEGNO_API void dalsegno_pin_free(dalsegno_pin* pin);

// ---- tokenizer

// Of a file, whose weights are not loaded, or of an engine.
DALSEGNO_API int32_t dalsegno_tokenizer_open(const char* model_path, dalsegno_tokenizer** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_engine_tokenizer(const dalsegno_engine* engine, dalsegno_tokenizer** out,
                                               dalsegno_error* error);
DALSEGNO_API void dalsegno_tokenizer_free(dalsegno_tokenizer* tokenizer);

// special: recognise control tokens in the text; bos: add what the model adds. The text may hold zero bytes.
DALSEGNO_API int32_t dalsegno_tokenizer_encode(const dalsegno_tokenizer* tokenizer, const char* text, size_t text_size,
                                               int32_t special, int32_t bos, dalsegno_tokens** out,
                                               dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_tokenizer_decode(const dalsegno_tokenizer* tokenizer, const int32_t* ids, size_t count,
                                               dalsegno_text** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_tokenizer_render(const dalsegno_tokenizer* tokenizer, const char* messages_json,
                                               int32_t add_generation_prompt, dalsegno_text** out,
                                               dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_tokenizer_has_template(const dalsegno_tokenizer* tokenizer);
DALSEGNO_API int32_t dalsegno_tokenizer_vocabulary_size(const dalsegno_tokenizer* tokenizer);
DALSEGNO_API int32_t dalsegno_tokenizer_is_end_of_turn(const dalsegno_tokenizer* tokenizer, int32_t id);

// ---- sessions

typedef struct dalsegno_message {
  const char* role;
  const char* content;
  const char* name;  // of the tool that answers; otherwise "" or NULL
} dalsegno_message;

typedef struct dalsegno_messages {
  const dalsegno_message* items;
  size_t count;
} dalsegno_messages;
DALSEGNO_API void dalsegno_messages_free(dalsegno_messages* messages);

typedef struct dalsegno_tool {
  const char* name;
  const char* description;      // or NULL
  const char* parameters_json;  // a JSON schema; NULL: of no parameters
  // Answers a call with dalsegno_tool_answer. Other than 0: the call failed, and the answer says why.
  int32_t (*handler)(void* user, const char* arguments_json, dalsegno_tool_result* result);
  void* user;
} dalsegno_tool;
// Copies the text. Only within the handler.
DALSEGNO_API int32_t dalsegno_tool_answer(dalsegno_tool_result* result, const char* text, dalsegno_error* error);

typedef struct dalsegno_session_options {
  size_t size;
  const char* instructions;
  const dalsegno_tool* tools;
  size_t tool_count;
  int32_t call_style;  // DALSEGNO_STYLE_*
  const dalsegno_message* messages;
  size_t message_count;
  int32_t pin;
  int32_t tool_choice;  // DALSEGNO_TOOL_CHOICE_*, of turns whose options say nothing
  const char* tool_choice_name;
  int32_t strict;  // 1: calls are well-formed and their arguments valid; 0: the model writes what it likes
} dalsegno_session_options;
DALSEGNO_API void dalsegno_session_options_init(dalsegno_session_options* options, size_t size);

DALSEGNO_API int32_t dalsegno_session_create(dalsegno_engine* engine, const dalsegno_session_options* options,
                                             dalsegno_session** out, dalsegno_error* error);
DALSEGNO_API void dalsegno_session_free(dalsegno_session* session);

// Adds the user's message and answers it, as a stream if options have on_text.
DALSEGNO_API int32_t dalsegno_session_respond(dalsegno_session* session, const char* user_text,
                                              const dalsegno_generate_options* options, dalsegno_reply** out,
                                              dalsegno_error* error);
// Answers the transcript as it stands.
DALSEGNO_API int32_t dalsegno_session_reply(dalsegno_session* session, const dalsegno_generate_options* options,
                                            dalsegno_reply** out, dalsegno_error* error);

typedef struct dalsegno_tool_run {
  const char* name;
  const char* arguments_json;
  const char* result;
  int32_t failed;
} dalsegno_tool_run;

typedef struct dalsegno_tools_reply {
  const dalsegno_reply* reply;  // the last
  int32_t ended;                // DALSEGNO_TOOLS_*
  int32_t rounds;
  const dalsegno_tool_run* runs;
  size_t run_count;
} dalsegno_tools_reply;
DALSEGNO_API int32_t dalsegno_session_run_tools(dalsegno_session* session, const char* user_text,
                                                const dalsegno_generate_options* options, int32_t most_rounds,
                                                dalsegno_tools_reply** out, dalsegno_error* error);
DALSEGNO_API void dalsegno_tools_reply_free(dalsegno_tools_reply* reply);

// cached: how many tokens of the next turn's prompt are cached now; may be NULL.
DALSEGNO_API int32_t dalsegno_session_prewarm(dalsegno_session* session, const dalsegno_generate_options* options,
                                              int32_t* cached, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_fork(dalsegno_session* session, int32_t draws, dalsegno_session** out,
                                           dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_rewind(dalsegno_session* session, int32_t turn, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_edit(dalsegno_session* session, int32_t turn, const char* user_text,
                                           dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_set_transcript(dalsegno_session* session, const dalsegno_message* messages,
                                                     size_t count, dalsegno_error* error);
// out may be NULL: what is left then, and what of it is cached.
DALSEGNO_API int32_t dalsegno_session_trim(dalsegno_session* session, int32_t tokens, const char* salt,
                                           dalsegno_explanation* out, size_t out_size, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_save(dalsegno_session* session, const char* path, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_load(dalsegno_engine* engine, const char* path, const dalsegno_tool* tools,
                                           size_t tool_count, const char* salt, dalsegno_session** out,
                                           dalsegno_error* error);

DALSEGNO_API int32_t dalsegno_session_turns(const dalsegno_session* session);
DALSEGNO_API int32_t dalsegno_session_transcript(const dalsegno_session* session, dalsegno_messages** out,
                                                 dalsegno_error* error);
// How the last reply was asked for, before a restart too, without functions. Pointers live until the session is used
// again.
DALSEGNO_API int32_t dalsegno_session_last_options(dalsegno_session* session, dalsegno_generate_options* out,
                                                   size_t out_size, dalsegno_error* error);
typedef struct dalsegno_reply_report {
  int32_t turn;     // 1 for the first user message
  int32_t message;  // the reply's place in the transcript
  dalsegno_usage usage;
  dalsegno_reuse reuse;
  double ttft_ms;
  double tokens_per_second;
  int32_t proposed_tokens, accepted_tokens;  // of speculation
} dalsegno_reply_report;
DALSEGNO_API size_t dalsegno_session_report_count(const dalsegno_session* session);
DALSEGNO_API int32_t dalsegno_session_report(const dalsegno_session* session, size_t index, dalsegno_reply_report* out,
                                             size_t out_size, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_pinned_tokens(const dalsegno_session* session);
DALSEGNO_API int32_t dalsegno_session_pin_refusal(const dalsegno_session* session, dalsegno_text** out,
                                                  dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_add_tag(dalsegno_session* session, const char* tag, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_remove_tag(dalsegno_session* session, const char* tag, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_session_tags(const dalsegno_session* session, dalsegno_texts** out,
                                           dalsegno_error* error);

// ---- conversations by an application's own ids

typedef struct dalsegno_conversations_options {
  size_t size;
  const char* folder;  // NULL or "": in memory alone
  const char* salt;
  int32_t most_in_memory, most_on_disk;
} dalsegno_conversations_options;
DALSEGNO_API void dalsegno_conversations_options_init(dalsegno_conversations_options* options, size_t size);

DALSEGNO_API int32_t dalsegno_conversations_open(dalsegno_engine* engine, const dalsegno_conversations_options* options,
                                                 dalsegno_conversations** out, dalsegno_error* error);
DALSEGNO_API void dalsegno_conversations_free(dalsegno_conversations* conversations);
// Freed, the conversation is kept in memory; closed before, on disk too.
DALSEGNO_API int32_t dalsegno_conversations_use(dalsegno_conversations* conversations, const char* id,
                                                const dalsegno_session_options* options, dalsegno_conversation** out,
                                                dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_conversations_invalidate(dalsegno_conversations* conversations, const char* id,
                                                       dalsegno_error* error);
// Belongs to the conversation, which is not closed yet; freeing it does nothing.
DALSEGNO_API dalsegno_session* dalsegno_conversation_session(dalsegno_conversation* conversation);
DALSEGNO_API int32_t dalsegno_conversation_from(const dalsegno_conversation* conversation);  // DALSEGNO_FROM_*
// Why what is on disk was not used, or "".
DALSEGNO_API int32_t dalsegno_conversation_refusal(const dalsegno_conversation* conversation, dalsegno_text** out,
                                                   dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_conversation_close(dalsegno_conversation* conversation, dalsegno_error* error);
DALSEGNO_API void dalsegno_conversation_free(dalsegno_conversation* conversation);

// ---- prompt caches

DALSEGNO_API int32_t dalsegno_prompt_cache_make(dalsegno_engine* engine, const int32_t* tokens, size_t count,
                                                const char* salt, dalsegno_prompt_cache** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_prompt_cache_load(dalsegno_engine* engine, const char* path, const char* salt,
                                                dalsegno_prompt_cache** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_prompt_cache_save(const dalsegno_prompt_cache* cache, const char* path,
                                                dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_prompt_cache_fork(const dalsegno_prompt_cache* cache, dalsegno_prompt_cache** out,
                                                dalsegno_error* error);
// Forgets the last `tokens` tokens; left: how many there are then, may be NULL.
DALSEGNO_API int32_t dalsegno_prompt_cache_trim(dalsegno_prompt_cache* cache, int32_t tokens, int32_t* left,
                                                dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_prompt_cache_size(const dalsegno_prompt_cache* cache);  // in tokens
DALSEGNO_API int32_t dalsegno_prompt_cache_tokens(const dalsegno_prompt_cache* cache, dalsegno_tokens** out,
                                                  dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_prompt_cache_format(const dalsegno_prompt_cache* cache, dalsegno_kv* out,
                                                  dalsegno_error* error);
DALSEGNO_API void dalsegno_prompt_cache_free(dalsegno_prompt_cache* cache);

// ---- batches: requests that run together and come and go

typedef struct dalsegno_batch_request {
  size_t size;
  const int32_t* prompt;
  size_t prompt_count;
  const dalsegno_generate_options* options;
  int32_t has_uid;  // 0: the next free one
  uint64_t uid;
  const dalsegno_prompt_cache* cache;  // or NULL
  int32_t keep_cache;
} dalsegno_batch_request;
DALSEGNO_API void dalsegno_batch_request_init(dalsegno_batch_request* request, size_t size);

typedef struct dalsegno_batch_response {
  uint64_t uid;
  int32_t has_token;
  int32_t token;
  double logprob;
  const char* text;
  size_t text_size;
  int32_t finish;             // DALSEGNO_FINISH_*
  int32_t error_code;         // with DALSEGNO_FINISH_ERROR
  const char* error_message;  // "" otherwise
  dalsegno_usage usage;
  dalsegno_reuse reuse;
  const dalsegno_prompt_cache* cache;        // at the end, or NULL; fork it to keep it
  const char* cache_refusal;                 // why there is none
  int32_t proposed_tokens, accepted_tokens;  // of speculation, so far: guessed, and of these right
} dalsegno_batch_response;

typedef struct dalsegno_batch_responses {
  const dalsegno_batch_response* const* items;
  size_t count;  // 0: no request is left
} dalsegno_batch_responses;
DALSEGNO_API void dalsegno_batch_responses_free(dalsegno_batch_responses* responses);

// Threads: any may insert, extract and remove while one is in next.
DALSEGNO_API int32_t dalsegno_batch_new(dalsegno_engine* engine, dalsegno_batch** out, dalsegno_error* error);
DALSEGNO_API void dalsegno_batch_free(dalsegno_batch* batch);
// uids: [count], written in the order of the requests.
DALSEGNO_API int32_t dalsegno_batch_insert(dalsegno_batch* batch, const dalsegno_batch_request* const* requests,
                                           size_t count, uint64_t* uids, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_batch_next(dalsegno_batch* batch, dalsegno_batch_responses** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_batch_extract_cache(dalsegno_batch* batch, uint64_t uid, dalsegno_prompt_cache** out,
                                                  dalsegno_error* error);
// out: its cache, or NULL to drop that.
DALSEGNO_API int32_t dalsegno_batch_remove(dalsegno_batch* batch, uint64_t uid, dalsegno_prompt_cache** out,
                                           dalsegno_error* error);

// ---- log-probabilities of the next token

typedef struct dalsegno_logprobs_options {
  size_t size;
  const char* salt;
  uint64_t max_bytes;
  int32_t chunk;
} dalsegno_logprobs_options;
DALSEGNO_API void dalsegno_logprobs_options_init(dalsegno_logprobs_options* options, size_t size);

typedef struct dalsegno_logprob_row {
  const float* logprobs;  // natural logarithms
  size_t count;           // the vocabulary
} dalsegno_logprob_row;
DALSEGNO_API void dalsegno_logprob_row_free(dalsegno_logprob_row* row);

typedef struct dalsegno_token_span {
  const int32_t* ids;
  size_t count;
} dalsegno_token_span;

typedef struct dalsegno_logprob_stats {
  uint64_t queries, hits, joined, computed, evicted, rows, bytes;
} dalsegno_logprob_stats;

DALSEGNO_API int32_t dalsegno_logprobs_create(dalsegno_engine* engine, const dalsegno_logprobs_options* options,
                                              dalsegno_logprobs** out, dalsegno_error* error);
DALSEGNO_API void dalsegno_logprobs_free(dalsegno_logprobs* logprobs);
DALSEGNO_API int32_t dalsegno_logprobs_next(dalsegno_logprobs* logprobs, const int32_t* tokens, size_t count,
                                            dalsegno_logprob_row** out, dalsegno_error* error);
// rows: [count], each the caller's; on an error all NULL.
DALSEGNO_API int32_t dalsegno_logprobs_next_batch(dalsegno_logprobs* logprobs, const dalsegno_token_span* batch,
                                                  size_t count, dalsegno_logprob_row** rows, dalsegno_error* error);
// An answer on its way. Threads: any.
DALSEGNO_API int32_t dalsegno_logprobs_query(dalsegno_logprobs* logprobs, const int32_t* tokens, size_t count,
                                             dalsegno_query** out, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_query_is_ready(const dalsegno_query* query);
DALSEGNO_API int32_t dalsegno_query_get(const dalsegno_query* query, dalsegno_logprob_row** out,
                                        dalsegno_error* error);  // waits
DALSEGNO_API void dalsegno_query_free(dalsegno_query* query);
DALSEGNO_API int32_t dalsegno_logprobs_cache_kv(dalsegno_logprobs* logprobs, const int32_t* prompt, size_t count,
                                                dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_logprobs_clear_cache(dalsegno_logprobs* logprobs, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_logprobs_clear_kv_cache(dalsegno_logprobs* logprobs, dalsegno_error* error);
DALSEGNO_API int32_t dalsegno_logprobs_stats(const dalsegno_logprobs* logprobs, dalsegno_logprob_stats* out,
                                             size_t out_size, dalsegno_error* error);

// ---- memory

typedef struct dalsegno_memory_report {
  uint64_t limit, idle_limit;                    // in bytes, as all
  uint64_t weights, kv, index, log_probs, work;  // reserved now
  uint64_t pressure;                             // a count
  int32_t engines;                               // 0: none is open, and all else is 0
  int32_t active;
} dalsegno_memory_report;
DALSEGNO_API int32_t dalsegno_memory(dalsegno_memory_report* out, size_t out_size, dalsegno_error* error);
// Not from a callback.
DALSEGNO_API int32_t dalsegno_release_all(dalsegno_error* error);

// ---- models by turns

typedef struct dalsegno_models_options {
  size_t size;
  int32_t max_models;
  uint64_t max_bytes;
} dalsegno_models_options;
DALSEGNO_API void dalsegno_models_options_init(dalsegno_models_options* options, size_t size);

DALSEGNO_API int32_t dalsegno_models_new(const dalsegno_models_options* options, dalsegno_models** out,
                                         dalsegno_error* error);
DALSEGNO_API void dalsegno_models_free(dalsegno_models* models);
// The model is in use until the engine and all that was made on it have been freed. cancel: may be NULL.
DALSEGNO_API int32_t dalsegno_models_acquire(dalsegno_models* models, const dalsegno_engine_options* options,
                                             dalsegno_cancel* cancel, dalsegno_engine** out, dalsegno_error* error);
// Closes what nobody uses; closed: how many, may be NULL.
DALSEGNO_API int32_t dalsegno_models_close_idle(dalsegno_models* models, int32_t* closed, dalsegno_error* error);

typedef struct dalsegno_model {
  const char* path;
  uint64_t bytes;
  int32_t users;
  int32_t loading;
} dalsegno_model;
typedef struct dalsegno_model_list {
  const dalsegno_model* items;  // the most recently used first
  size_t count;
} dalsegno_model_list;
DALSEGNO_API int32_t dalsegno_models_report(const dalsegno_models* models, dalsegno_model_list** out,
                                            dalsegno_error* error);
DALSEGNO_API void dalsegno_model_list_free(dalsegno_model_list* list);

#ifdef __cplusplus
}
#endif

#endif
