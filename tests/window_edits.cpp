// window_edits MODEL TOKENS EDITS SEED: one long conversation of a model with sliding-window layers, edited at random
// depths. Prints a line per edit; fails where an edit resumes too far back, where the index holds too much of the
// window layers' K/V, or where reuse changed a bit.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"

namespace {

using dalsegno::Admission;
using dalsegno::TokenId;

constexpr int kNearest = 1024;            // checkpoints lie no farther apart
constexpr double kMostWindowShare = 0.4;  // of the positions in the index

class LastLogits final : public dalsegno::Waiter {
 public:
  dalsegno::Decision on_logits(int, std::span<const float> logits, std::span<const TokenId>) override {
    bits.resize(logits.size());
    std::memcpy(bits.data(), logits.data(), logits.size_bytes());
    return {};
  }
  std::vector<std::uint32_t> bits;
};

std::shared_ptr<LastLogits> run(dalsegno::LocalEngine& engine, const std::vector<TokenId>& tokens, bool reuse) {
  auto request = std::make_shared<LastLogits>();
  std::vector<dalsegno::Work> work;
  work.push_back({request, tokens, static_cast<int>(tokens.size()) - 1, 512, reuse});
  engine.scheduler().submit(std::move(work));
  const auto end = request->wait();
  if (end.ok()) return request;
  std::fprintf(stderr, "error: %s\n", end.error().message.c_str());
  std::exit(1);
}

double window_share(dalsegno::LocalEngine& engine) {
  double share = 0;
  engine.scheduler().on_engine_thread([&](dalsegno::KvCache& cache) {
    const dalsegno::CacheStats stats = cache.stats();
    share = static_cast<double>(stats.window_blocks) / static_cast<double>(std::max<std::uint64_t>(1, stats.blocks));
  });
  return share;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  const int size = std::atoi(argv[2]);
  const int edits = std::atoi(argv[3]);
  std::mt19937 random(static_cast<unsigned>(std::atoi(argv[4])));
  auto engine = dalsegno::LocalEngine::open(options);
  if (!engine.ok()) {
    std::fprintf(stderr, "error: %s\n", engine.error().message.c_str());
    return 1;
  }
  const auto vocabulary = static_cast<unsigned>((*engine)->config().vocabulary);
  std::vector<TokenId> tokens(static_cast<std::size_t>(size));
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % vocabulary);
  run(**engine, tokens, true);
  std::printf("share_at_first %.3f\n", window_share(**engine));
  int failures = 0;
  double most_share = window_share(**engine);
  std::shared_ptr<LastLogits> last;
  for (int i = 0; i < edits; ++i) {
    const int depth = 1 + static_cast<int>(random() % static_cast<unsigned>(size - 1));
    TokenId& edited = tokens[static_cast<std::size_t>(size - depth)];
    edited = static_cast<TokenId>((static_cast<unsigned>(edited) + 1 + random() % (vocabulary - 1)) % vocabulary);
    last = run(**engine, tokens, true);
    const Admission& seen = last->admission();
    const int back = seen.at - seen.reused;
    most_share = std::max(most_share, window_share(**engine));
    std::printf("edit %d depth %d at %d resumed %d back %d share %.3f\n", i, depth, seen.at, seen.reused, back,
                window_share(**engine));
    std::fflush(stdout);
    if (seen.at != size - depth || back > std::max(kNearest, depth)) ++failures;
  }
  if (last && run(**engine, tokens, false)->bits != last->bits) {
    std::fprintf(stderr, "error: the logits of the last edit are not those without reuse\n");
    ++failures;
  }
  if (most_share > kMostWindowShare) ++failures;
  std::printf("most_share %.3f\nfailures %d\n", most_share, failures);
  return failures > 0 ? 1 : 0;
}
