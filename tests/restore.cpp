// restore MODEL.gguf [PAIRS [THREADS]]: how much sooner a saved cache is there than its tokens are prefilled, for
// 1,000, 2,000 and 4,000 tokens, in turns. Loading includes every check. Prints medians, their ratio and its spread.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <vector>

#include "dalsegno/engine.hpp"
#include "dalsegno/prompt_cache.hpp"

namespace dalsegno {
namespace {

double seconds(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

[[noreturn]] void fail(const Error& error) {
  fmt::print(stderr, "error: {}\n", error.message);
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result.ok()) fail(result.error());
  return std::move(result).value();
}

void measure(Engine& engine, int tokens, int pairs) {
  const std::string path = (std::filesystem::temp_directory_path() / fmt::format("restore-{}", tokens)).string();
  std::mt19937 random(1);
  std::vector<TokenId> prompt(static_cast<std::size_t>(tokens));
  for (TokenId& token : prompt) token = static_cast<TokenId>(random() % 1000);
  double save = 0;
  {
    const PromptCache cache = must(PromptCache::make(engine, prompt));
    save = seconds([&] {
      if (auto saved = cache.save(path); !saved.ok()) fail(saved.error());
    });
  }
  std::vector<double> prefills;
  std::vector<double> loads;
  std::vector<double> ratios;
  for (int i = 0; i < pairs; ++i) {
    engine.reset_cache();
    prefills.push_back(seconds([&] { (void)must(PromptCache::make(engine, prompt)); }));
    engine.reset_cache();
    loads.push_back(seconds([&] { (void)must(PromptCache::load(engine, path)); }));
    ratios.push_back(prefills.back() / loads.back());
  }
  const auto [least, most] = std::ranges::minmax(ratios);
  fmt::print(
      "{} tokens, {:.1f} MB, saved in {:.0f} ms: prefill {:.1f} ms, load {:.1f} ms, {:.1f} times ({:.1f} to {:.1f})\n",
      tokens, static_cast<double>(std::filesystem::file_size(path)) / 1e6, 1e3 * save, 1e3 * median(prefills),
      1e3 * median(loads), median(ratios), least, most);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: restore MODEL.gguf [PAIRS [THREADS]]\n");
    return 2;
  }
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  options.threads = argc > 3 ? std::atoi(argv[3]) : 0;
  const auto engine = dalsegno::must(dalsegno::Engine::open(options));
  for (const int tokens : {1000, 2000, 4000}) dalsegno::measure(*engine, tokens, argc > 2 ? std::atoi(argv[2]) : 7);
  return 0;
}
