// prewarm MODEL: the time to the first token, cold and after prewarming. What a conversation begins with
// (instructions, tools) is computed before the user has said a word.

#include <cstdio>
#include <string>

#include "dalsegno/session.hpp"

namespace {

using dalsegno::Result;

std::string instructions() {
  std::string text = "You are the guide of a museum. Answer in one sentence.";
  for (int room = 1; room <= 40; ++room)
    text += " Room " + std::to_string(room) + " holds paintings of the year " + std::to_string(1500 + 10 * room) + ".";
  return text;
}

Result<void> show(const std::string& model) {
  dalsegno::EngineOptions options;
  options.model_path = model;
  DALSEGNO_ASSIGN(engine, dalsegno::Engine::open(options));
  const dalsegno::SessionOptions beginning{.instructions = instructions()};
  const std::string question = "What is in room 7?";

  DALSEGNO_ASSIGN(cold, dalsegno::Session::create(*engine, beginning));
  DALSEGNO_ASSIGN(before, cold.respond(question, {.max_tokens = 16}));
  engine->reset_cache();

  DALSEGNO_ASSIGN(session, dalsegno::Session::create(*engine, beginning));
  DALSEGNO_ASSIGN(cached, session.prewarm());
  DALSEGNO_ASSIGN(after, session.respond(question, {.max_tokens = 16}));

  std::printf("cold:      %d tokens in, %d reused, first token after %.1f ms\n", before.usage.prompt_tokens,
              before.usage.reused_tokens, before.ttft_ms);
  std::printf("prewarmed: %d tokens in, %d reused, first token after %.1f ms\n", after.usage.prompt_tokens,
              after.usage.reused_tokens, after.ttft_ms);
  if (after.usage.reused_tokens < cached) return dalsegno::Error{.message = "not all that was prewarmed was reused"};
  if (after.ids != before.ids) return dalsegno::Error{.message = "prewarming changed the reply"};
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Result<void> done = argc == 2 ? show(argv[1]) : dalsegno::Error{.message = "usage: prewarm MODEL.gguf"};
  if (done.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", done.error().message.c_str());
  return 1;
}
