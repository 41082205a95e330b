// interleaved MODEL: three conversations that share their instructions, by turns. The engine has one cache for all:
// going back to a conversation computes nothing of it anew.

#include <cstdio>
#include <string>
#include <vector>

#include "dalsegno/session.hpp"

namespace {

int fail(const dalsegno::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return fail({.message = "usage: interleaved MODEL.gguf"});
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  auto engine = dalsegno::Engine::open(options);
  if (!engine.ok()) return fail(engine.error());

  const std::vector<std::string> topics = {"rivers", "houses", "bread"};
  std::vector<dalsegno::Session> sessions;
  for (std::size_t i = 0; i < topics.size(); ++i) {
    auto session = dalsegno::Session::create(**engine, {.instructions = "You are a patient teacher. Be brief."});
    if (!session.ok()) return fail(session.error());
    sessions.push_back(std::move(*session));
  }
  for (int turn = 1; turn <= 4; ++turn) {
    for (std::size_t i = 0; i < topics.size(); ++i) {
      const std::string question = "Question " + std::to_string(turn) + ": tell me one thing about " + topics[i] + ".";
      const auto reply = sessions[i].respond(question, {.max_tokens = 32});
      if (!reply.ok()) return fail(reply.error());
      std::printf("turn %d, %-7s %4d tokens in: %4d reused, %3d prefilled, first token %.1f ms\n", turn,
                  topics[i].c_str(), reply->usage.prompt_tokens, reply->usage.reused_tokens,
                  reply->usage.prefilled_tokens, reply->ttft_ms);
      // What was said so far is cached, whoever spoke in between; only the new question is prefilled.
      if (turn > 1 && reply->usage.reused_tokens < reply->usage.prompt_tokens / 2) {
        return fail({.message = "the conversation was computed again"});
      }
    }
  }
  return 0;
}
