// chat MODEL: a conversation of three turns. Each turn's report says how much of its prompt was cached already.

#include <cstdio>
#include <string_view>

#include "dalsegno/session.hpp"

namespace {

int fail(const dalsegno::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.message.c_str());
  return 1;
}

bool print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return true;  // false would end the reply here
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return fail({.message = "usage: chat MODEL.gguf"});
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  auto engine = dalsegno::Engine::open(options);
  if (!engine.ok()) return fail(engine.error());
  auto session =
      dalsegno::Session::create(**engine, {.instructions = "You are a cook. Answer in one or two sentences."});
  if (!session.ok()) return fail(session.error());

  for (const char* question : {"Hi! What should a beginner cook first?", "Why that?", "And after that?"}) {
    std::printf("> %s\n", question);
    const auto reply = session->stream(question, {.max_tokens = 60}, {.on_text = print, .on_prefill = {}});
    if (!reply.ok()) return fail(reply.error());
    const dalsegno::Usage& usage = reply->usage;
    std::printf(
        "\n[%d tokens in: %d reused (%s), %d prefilled, stopped: %s at %d | first token %.0f ms | %d tokens]\n\n",
        usage.prompt_tokens, usage.reused_tokens, reply->reuse.tier, usage.prefilled_tokens, name(reply->reuse.stopped),
        reply->reuse.at, reply->ttft_ms, usage.reply_tokens);
  }
  return session->reports().back().usage.reused_tokens > 0 ? 0 : fail({.message = "the last turn reused nothing"});
}
