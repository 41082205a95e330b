// chat MODEL: a conversation of three turns from C11. Each turn's report says how much of its prompt was cached.

#include <stdio.h>

#include "dalsegno.h"

static int32_t print(void* user, const char* text, size_t text_size) {
  (void)user;
  fwrite(text, 1, text_size, stdout);
  fflush(stdout);
  return 1;  // 0 would end the reply here
}

// Returns 0, or the code of what went wrong, which `error` explains.
static int32_t turn(dalsegno_session* session, const char* question, int32_t* reused, dalsegno_error* error) {
  dalsegno_generate_options options;
  dalsegno_generate_options_init(&options, sizeof options);
  options.max_tokens = 60;
  options.on_text = print;
  printf("> %s\n", question);
  dalsegno_reply* reply = NULL;
  const int32_t code = dalsegno_session_respond(session, question, &options, &reply, error);
  if (code != DALSEGNO_OK) return code;
  printf("\n[%d tokens in: %d reused (%s), %d prefilled, stopped: %s at %d | first token %.0f ms | %d tokens]\n\n",
         reply->usage.prompt_tokens, reply->usage.reused_tokens, reply->reuse.tier, reply->usage.prefilled_tokens,
         dalsegno_stopped_name(reply->reuse.stopped), reply->reuse.at, reply->ttft_ms, reply->usage.reply_tokens);
  *reused = reply->usage.reused_tokens;
  dalsegno_reply_free(reply);
  return DALSEGNO_OK;
}

static int32_t chat(const char* model, dalsegno_error* error) {
  const char* const questions[] = {"Hi! What should a beginner cook first?", "Why that?", "And after that?"};
  dalsegno_engine_options options;
  dalsegno_engine_options_init(&options, sizeof options);
  options.model_path = model;
  dalsegno_session_options beginning;
  dalsegno_session_options_init(&beginning, sizeof beginning);
  beginning.instructions = "You are a cook. Answer in one or two sentences.";

  dalsegno_engine* engine = NULL;
  dalsegno_session* session = NULL;
  int32_t reused = 0;
  int32_t code = dalsegno_engine_open(&options, NULL, &engine, error);
  if (code == DALSEGNO_OK) code = dalsegno_session_create(engine, &beginning, &session, error);
  for (int i = 0; i < 3 && code == DALSEGNO_OK; ++i) code = turn(session, questions[i], &reused, error);
  if (code == DALSEGNO_OK && reused == 0) code = DALSEGNO_INTERNAL;
  dalsegno_session_free(session);
  dalsegno_engine_free(engine);
  return code;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: chat MODEL.gguf\n");
    return 1;
  }
  dalsegno_error* error = dalsegno_error_new();
  const int32_t code = chat(argv[1], error);
  if (code != DALSEGNO_OK) {
    const char* message = dalsegno_error_message(error);
    fprintf(stderr, "error: %s\n", message[0] != '\0' ? message : "the last turn reused nothing");
  }
  dalsegno_error_free(error);
  return code == DALSEGNO_OK ? 0 : 1;
}
