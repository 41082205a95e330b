// pangram MODEL: a cache is taken out of a batch, saved, loaded and put into another batch. The reply is the same,
// token for token, with and without it.

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "dalsegno/batch.hpp"

namespace {

using dalsegno::BatchGenerator;
using dalsegno::PromptCache;
using dalsegno::Result;
using dalsegno::TokenId;

struct Outcome {
  std::vector<TokenId> ids;
  std::string text;
  int reused = 0;
  PromptCache cache;  // of prompt and reply
};

Result<Outcome> run(dalsegno::Engine& engine, const std::vector<TokenId>& prompt, const PromptCache& cache) {
  BatchGenerator batch(engine);
  DALSEGNO_ASSIGN(uids, batch.insert({{.prompt = prompt, .options = {.max_tokens = 24}, .cache = cache}}));
  Outcome outcome;
  for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
    for (const dalsegno::BatchResponse& response : responses) {
      if (response.error) return *response.error;
      if (response.token) outcome.ids.push_back(*response.token);
      outcome.text += response.text;
      outcome.reused = response.usage.reused_tokens;
      if (response.cache) outcome.cache = *response.cache;
    }
  }
  return outcome;
}

Result<void> show(const std::string& model) {
  dalsegno::EngineOptions options;
  options.model_path = model;
  DALSEGNO_ASSIGN(engine, dalsegno::Engine::open(options));
  DALSEGNO_ASSIGN(prompt, engine->tokenizer().encode("The quick brown fox jumps over the lazy", {.bos = true}));

  DALSEGNO_ASSIGN(cold, run(*engine, prompt, {}));
  const std::string path = "pangram.safetensors";
  DALSEGNO_TRY(cold.cache.save(path));
  cold.cache = {};
  engine->reset_cache();  // as in a new process
  DALSEGNO_ASSIGN(saved, PromptCache::load(*engine, path));
  std::filesystem::remove(path);
  DALSEGNO_ASSIGN(warm, run(*engine, prompt, saved));

  std::printf("cold: %d of %zu tokens reused:%s\n", cold.reused, prompt.size(), cold.text.c_str());
  std::printf("warm: %d of %zu tokens reused:%s\n", warm.reused, prompt.size(), warm.text.c_str());
  if (warm.ids != cold.ids) return dalsegno::Error{.message = "the cache changed the reply"};
  if (warm.reused + 1 != static_cast<int>(prompt.size())) return dalsegno::Error{.message = "the cache was not used"};
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Result<void> done = argc == 2 ? show(argv[1]) : dalsegno::Error{.message = "usage: pangram MODEL.gguf"};
  if (done.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", done.error().message.c_str());
  return 1;
}
