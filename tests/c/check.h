// What the files of c_api_test share.
#ifndef DALSEGNO_TESTS_C_CHECK_H
#define DALSEGNO_TESTS_C_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dalsegno.h"

extern dalsegno_error* error;
extern const char* folder;
void check(bool good, const char* what, int line);
dalsegno_generate_options short_reply(int32_t tokens);
void path_of(char* path, size_t size, const char* name);

#define CHECK(condition) check((condition), #condition, __LINE__)
// A call succeeds; what follows needs it.
#define MUST(call)                   \
  do {                               \
    if ((call) != DALSEGNO_OK) {     \
      check(false, #call, __LINE__); \
      exit(1);                       \
    }                                \
  } while (0)
// A call fails with this code and a sentence.
#define FAILS(code, call)                             \
  do {                                                \
    CHECK((call) == (code));                          \
    CHECK(dalsegno_error_code(error) == (code));      \
    CHECK(strlen(dalsegno_error_message(error)) > 5); \
  } while (0)

void test_session(dalsegno_engine* engine);
void test_conversations(dalsegno_engine* engine);
void test_prompt_cache(dalsegno_engine* engine);
void test_batch(dalsegno_engine* engine);
void test_logprobs(dalsegno_engine* engine);
void test_memory(void);

#endif
