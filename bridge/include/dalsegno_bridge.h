/* The C face of the Rust crates Dal Segno uses: tokenizers, chat templates and grammars.
 *
 * Memory: dsb_text borrows the caller's bytes for the duration of the call. A dsb_buffer or dsb_ids
 * that a call fills belongs to the caller, who gives it back with dsb_buffer_free or dsb_ids_free; both
 * accept one that was never filled. Handles are given back with their own _free, which accepts NULL.
 * Errors: every fallible call returns a dsb_code; unless it is DSB_OK, `error` holds one sentence
 * (UTF-8) and the other outputs are as they were. A Rust panic never leaves a call: it is DSB_INTERNAL.
 * Threads: handles are immutable, matchers excepted; const calls may run at the same time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dsb_code {
  DSB_OK = 0,
  DSB_INVALID_ARGUMENT = 1,
  DSB_CORRUPT = 2,
  DSB_UNSUPPORTED = 3,
  DSB_EXHAUSTED = 4,
  DSB_INTERNAL = 5,
} dsb_code;

typedef struct dsb_text {
  const char* data; /* not terminated; may be NULL if size is 0 */
  size_t size;
} dsb_text;

typedef struct dsb_buffer {
  char* data;
  size_t size, capacity;
} dsb_buffer;

typedef struct dsb_ids {
  int32_t* data;
  size_t size, capacity;
} dsb_ids;

void dsb_buffer_free(dsb_buffer buffer);
void dsb_ids_free(dsb_ids ids);

/* ---- vocabulary ---- */

typedef struct dsb_vocabulary dsb_vocabulary;

typedef struct dsb_vocabulary_spec {
  dsb_text model; /* "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE) */
  dsb_text pre;   /* split rule of gpt2; empty: "default" */
  const dsb_text* tokens;
  const uint8_t* types; /* [token_count] 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte */
  const float* scores;  /* [token_count], or NULL for gpt2 */
  size_t token_count;
  const dsb_text* merges; /* of gpt2: two parts around one space, best first */
  size_t merge_count;
  int32_t bos, eos, unknown; /* ids, -1: none */
  /* 1 yes, 0 no, -1 not said: the default of model and pre */
  int8_t add_bos, add_eos, add_space_prefix;
} dsb_vocabulary_spec;

int32_t dsb_vocabulary_create(const dsb_vocabulary_spec* spec, const dsb_vocabulary** vocabulary, dsb_buffer* error);
void dsb_vocabulary_free(const dsb_vocabulary* vocabulary);

#define DSB_ENCODE_SPECIAL 1 /* recognise control tokens */
#define DSB_ENCODE_BOS 2     /* add what the model adds */

int32_t dsb_vocabulary_encode(const dsb_vocabulary* vocabulary, dsb_text text, uint32_t flags, dsb_ids* ids,
                              dsb_buffer* error);

/* ---- chat template ---- */

typedef struct dsb_template dsb_template;

int32_t dsb_template_create(dsb_text source, dsb_text bos_token, dsb_text eos_token, dsb_template** chat_template,
                            dsb_buffer* error);
void dsb_template_free(dsb_template* chat_template);
/* context: a JSON object with an array "messages"; bos_token and eos_token are added. */
int32_t dsb_template_render(const dsb_template* chat_template, dsb_text context, dsb_buffer* text, dsb_buffer* error);

/* ---- grammars ---- */

/* What grammars of one vocabulary have in common: a trie of its tokens. */
typedef struct dsb_grammars dsb_grammars;

typedef struct dsb_grammars_spec {
  const dsb_vocabulary* vocabulary; /* shared from then on */
  const dsb_text* tokens;           /* what each adds to a text; of a special one its name */
  const uint8_t* special;           /* [token_count] 1: a control token, which only a grammar that names it allows */
  size_t token_count;
  const uint32_t* ends; /* ids that end a text; at least one */
  size_t end_count;
} dsb_grammars_spec;

int32_t dsb_grammars_create(const dsb_grammars_spec* spec, dsb_grammars** grammars, dsb_buffer* error);
void dsb_grammars_free(dsb_grammars* grammars);

typedef enum dsb_grammar_kind {
  DSB_JSON_SCHEMA = 0,
  DSB_REGEX = 1,
  DSB_LARK = 2,
  DSB_CHOICES = 3, /* any number of texts; the others take one */
  DSB_TOOL_CALLS = 4,
} dsb_grammar_kind;

typedef enum dsb_matcher_state {
  DSB_OPEN = 0,     /* some token may follow */
  DSB_COMPLETE = 1, /* nothing but the end may follow */
  DSB_DEAD = 2,     /* no token may follow, and the text is not whole */
} dsb_matcher_state;

/* A place in a grammar. Not const: one thread at a time. */
typedef struct dsb_matcher dsb_matcher;

/* At the grammar's beginning. Takes at most some tens of milliseconds, whatever the texts; of tool calls, for each tool. */
int32_t dsb_grammar_compile(const dsb_grammars* grammars, int32_t kind, const dsb_text* texts, size_t text_count,
                            dsb_matcher** matcher, dsb_buffer* error);
int32_t dsb_matcher_clone(const dsb_matcher* matcher, dsb_matcher** copy, dsb_buffer* error);
void dsb_matcher_free(dsb_matcher* matcher);
/* Of tool calls, at their beginning: the text begins within thoughts that the prompt has begun. */
void dsb_matcher_think(dsb_matcher* matcher);
/* words: one bit per id, from the lowest of the first word on; which tokens may follow. */
int32_t dsb_matcher_mask(dsb_matcher* matcher, uint32_t* words, size_t word_count, int32_t* state, dsb_buffer* error);
int32_t dsb_matcher_consume(dsb_matcher* matcher, const uint32_t* ids, size_t id_count, int32_t* state,
                            dsb_buffer* error);
/* Tokens that must follow: the mask before each of them has no other bit. */
int32_t dsb_matcher_forced(dsb_matcher* matcher, dsb_ids* ids, dsb_buffer* error);
/* Whether the text may end here. */
int32_t dsb_matcher_accepts(dsb_matcher* matcher, int32_t* accepts, dsb_buffer* error);
/* What the grammar takes by now, its copies' share included: an upper bound. */
int32_t dsb_matcher_bytes(const dsb_matcher* matcher, uint64_t* bytes, dsb_buffer* error);

#ifdef __cplusplus
}
#endif
