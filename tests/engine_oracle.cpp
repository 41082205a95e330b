// Random conversation trees on the tiny models, on an engine that reuses all it can and forgets what it must, against
// one that computes every prompt anew: no bit of a logit may differ. Prints its seed; the same seed repeats a run.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"

namespace dalsegno {
namespace {

using Tokens = std::vector<TokenId>;

struct Options {
  std::uint64_t steps = ~0ULL;  // requests in all
  double seconds = 45;          // unless it takes longer
  std::uint32_t seed = 1;
  std::string model;  // empty: all
};

struct Setup {
  const char* model;
  KvOptions kv;
  int threads;
};

// Keeps the bits of the logits it is shown, follows the likeliest tokens, and may give up on the way.
class Follower final : public Waiter {
 public:
  Follower(int steps, int quits_after) : steps_(steps), quits_after_(quits_after) {}
  void on_progress(int done, int) override {
    if (quits_after_ >= 0 && done >= quits_after_) cancel();
  }
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    std::vector<std::uint32_t>& bits = logits_[position];
    bits.resize(logits.size());
    std::memcpy(bits.data(), logits.data(), logits.size_bytes());
    tokens_.assign(tokens.begin(), tokens.end());
    if (position + 1 < static_cast<int>(tokens.size()) || steps_ == 0) return {};
    if (taken_++ == steps_) return {Decision::Kind::finish, 0, FinishReason::length};
    const auto best = static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    tokens_.push_back(best);
    return {Decision::Kind::append, best, FinishReason::length};
  }
  [[nodiscard]] const Tokens& tokens() const { return tokens_; }
  [[nodiscard]] const std::map<int, std::vector<std::uint32_t>>& logits() const { return logits_; }

 private:
  const int steps_;
  const int quits_after_;
  int taken_ = 0;
  Tokens tokens_;
  std::map<int, std::vector<std::uint32_t>> logits_;
};

std::unique_ptr<LocalEngine> open(const Setup& setup) {
  EngineOptions options;
  options.model_path = fmt::format("{}/tiny/{}.gguf", DALSEGNO_GOLDEN, setup.model);
  options.kv = setup.kv;
  options.threads = setup.threads;
  options.memory.bytes = 192ULL << 20;  // of both engines: an extent of pages for the plain one, the rest for the other
  auto engine = LocalEngine::open(options);
  if (!engine.ok()) {
    fmt::print("error: {}\n", engine.error().message);
    std::exit(1);
  }
  return std::move(engine).value();
}

class Oracle {
 public:
  Oracle(const Setup& setup, std::uint32_t seed)
      : random_(seed), cached_(open(setup)), plain_(open({setup.model, setup.kv, 1})) {
    // The plain engine takes its pages before the ballast can.
    auto first = std::make_shared<Follower>(0, -1);
    std::vector<Work> work;
    work.push_back({first, Tokens(650, 1), 649, 512, false});
    plain_->scheduler().submit(std::move(work));
    static_cast<void>(first->wait());
  }
  ~Oracle() {
    cached_->scheduler().on_engine_thread([&](KvCache& cache) { cache.discard(std::move(ballast_)); });
  }

  // One tree: a root and what grows from it and from earlier trees. Empty, or what went wrong.
  std::string tree() {
    if (std::string wrong = disturb(); !wrong.empty()) return wrong;
    few_tokens_ = below(2) == 0;
    remember(tail(1 + below(120)));
    for (int batches = 2 + below(5); batches > 0; --batches) {
      if (std::string wrong = batch(); !wrong.empty()) return wrong;
    }
    return {};
  }

  std::uint64_t requests = 0, compared = 0, reused = 0, windows = 0, cancelled = 0, refused = 0;
  [[nodiscard]] CacheStats stats() {
    CacheStats stats;
    cached_->scheduler().on_engine_thread([&](KvCache& cache) { stats = cache.stats(); });
    return stats;
  }

 private:
  struct Sent {
    std::shared_ptr<Follower> follower;
    Tokens tokens;
  };

  int below(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }
  Tokens tail(int count) {
    Tokens tokens;
    for (; count > 0; --count) tokens.push_back(below(few_tokens_ ? 3 : 264));
    return tokens;
  }
  void remember(Tokens tokens) {
    history_.push_back(std::move(tokens));
    if (history_.size() > 40) history_.erase(history_.begin() + below(40));
  }

  // A new branch, or an earlier conversation with one token changed.
  Tokens branch() {
    Tokens tokens = history_[static_cast<std::size_t>(below(static_cast<int>(history_.size())))];
    if (below(4) == 0) {
      tokens[static_cast<std::size_t>(below(static_cast<int>(tokens.size())))] = below(264);
    } else {
      tokens.resize(static_cast<std::size_t>(below(static_cast<int>(tokens.size()) + 1)));
    }
    const Tokens more = tail(1 + below(below(6) == 0 ? 300 : 60));
    tokens.insert(tokens.end(), more.begin(), more.end());
    if (tokens.size() > 600) tokens.resize(600);
    return tokens;
  }

  // Leaves another number of pages free, and in them what other sequences may have left behind.
  std::string disturb() {
    std::string wrong;
    cached_->scheduler().on_engine_thread([&](KvCache& cache) {
      if (below(6) == 0) cache.clear();
      if (below(4) == 0 || !ballast_.is_open()) {
        cache.discard(std::move(ballast_));
        ballast_ = cache.open_private();
        const int blocks = most_blocks(cache);
        const int spare = below(3) == 0 ? 300 : 45 + below(60);
        if (const auto room = cache.extend(ballast_, std::max(0, blocks - spare) * kBlockTokens); !room.ok()) {
          cache.clear();
          if (!cache.extend(ballast_, std::max(0, blocks - 2 * spare) * kBlockTokens).ok()) wrong = "no ballast";
        }
      }
      if (below(4) == 0) junk(cache);
      if (wrong.empty()) wrong = cache.check_invariants();
    });
    return wrong;
  }
  static int most_blocks(const KvCache& cache) {
    const auto slices = static_cast<std::uint64_t>(cache.layout().slices);
    std::uint64_t fits = 0;
    for (std::uint64_t too_many = cache.stats().pages_limit / slices + 1; too_many - fits > 1;) {
      const std::uint64_t middle = fits + (too_many - fits) / 2;
      (cache.could_fit(middle * slices) ? fits : too_many) = middle;
    }
    return static_cast<int>(fits);
  }
  void junk(KvCache& cache) {
    const KvFormat format = cache.layout().format;
    if (format != KvFormat::bf16 && format != KvFormat::f32) return;  // their scales are not any bytes
    BlockTable table = cache.open_private();
    if (!cache.extend(table, (1 + below(20)) * kBlockTokens).ok()) return;
    const KvView view = cache.view(table);
    for (int slice = 0; slice < view.layout->slices; ++slice) {
      for (int page = 0; page < view.page_count; ++page) {
        auto* bytes = reinterpret_cast<std::uint16_t*>(view.pages[static_cast<std::size_t>(slice)][page]);
        for (std::size_t i = 0; i < view.layout->page_bytes() / 2; ++i) {
          const auto word = static_cast<std::uint16_t>(random_());
          bytes[i] = (word & 0x7f80U) == 0x7f80U ? static_cast<std::uint16_t>(word & 0xbfffU) : word;  // finite
        }
      }
    }
    cache.discard(std::move(table));
  }

  std::string batch() {
    std::vector<Sent> sent;
    std::vector<Work> work;
    const int size = 1 + below(5);
    Tokens common = branch();
    for (int i = 0; i < size; ++i) {
      Tokens tokens = below(3) == 0 ? common : branch();
      const int from = below(3) == 0 ? below(static_cast<int>(tokens.size())) : static_cast<int>(tokens.size()) - 1;
      const int quits = below(6) == 0 ? below(static_cast<int>(tokens.size()) + 10) : -1;
      auto follower = std::make_shared<Follower>(below(3) == 0 ? 0 : below(40), quits);
      work.push_back(
          {follower, tokens, from, 1 + below(below(2) == 0 ? 600 : 60), below(10) != 0, below(8) == 0 ? "other" : ""});
      sent.push_back({std::move(follower), std::move(tokens)});
    }
    cached_->scheduler().submit(std::move(work));
    for (const Sent& each : sent) {
      if (std::string wrong = judge(each); !wrong.empty()) return wrong;
    }
    std::string wrong;
    cached_->scheduler().on_engine_thread([&](KvCache& cache) { wrong = cache.check_invariants(); });
    return wrong;
  }

  std::string judge(const Sent& sent) {
    ++requests;
    const Result<FinishReason> end = sent.follower->wait();
    if (!end.ok() && end.error().code != ErrorCode::exhausted) return end.error().message;
    refused += end.ok() ? 0 : 1;
    cancelled += end.ok() && *end == FinishReason::cancelled ? 1 : 0;
    reused += static_cast<std::uint64_t>(sent.follower->admission().reused);
    windows += sent.follower->admission().stopped == Stopped::window ? 1 : 0;
    const auto& logits = sent.follower->logits();
    if (logits.empty()) return {};
    const Tokens& tokens = sent.follower->tokens();
    remember(tokens);
    auto reference = std::make_shared<Follower>(0, -1);
    std::vector<Work> work;
    work.push_back({reference, tokens, logits.begin()->first, 512, false});
    plain_->scheduler().submit(std::move(work));
    if (const auto done = reference->wait(); !done.ok()) return done.error().message;
    for (const auto& [position, bits] : logits) {
      ++compared;
      if (reference->logits().at(position) != bits) {
        return fmt::format("the logits of position {} of {} differ, {} tokens having been reused", position,
                           tokens.size(), sent.follower->admission().reused);
      }
    }
    return {};
  }

  std::mt19937 random_;
  const std::unique_ptr<LocalEngine> cached_;
  const std::unique_ptr<LocalEngine> plain_;
  BlockTable ballast_;
  std::vector<Tokens> history_;
  bool few_tokens_ = false;
};

constexpr KvOptions kBf16{.format = KvFormat::bf16};
constexpr KvOptions kF32{.format = KvFormat::f32};
constexpr KvOptions kQ8{.format = KvFormat::q8};
constexpr KvOptions kQ4{.format = KvFormat::q4, .group_size = 32};
constexpr Setup kSetups[] = {
    {"gemma3-swa", kBf16, 2},   {"llama-gqa", kBf16, 1}, {"qwen3-qknorm", kF32, 2}, {"gemma3-swa", kF32, 1},
    {"qwen2-bias", kBf16, 2},   {"llama-q4_1", kQ8, 2},  {"gemma3-swa", kQ4, 1},    {"gemma3-swa", kBf16, 1},
    {"qwen3-qknorm", kBf16, 1}, {"llama-gqa", kQ4, 2},   {"qwen2-bias", kQ8, 1},    {"llama-gqa", kF32, 2},
};

int run(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [begin = Clock::now()] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  std::vector<Setup> setups;
  for (const Setup& setup : kSetups) {
    if (options.model.empty() || options.model == setup.model) setups.push_back(setup);
  }
  std::uint64_t requests = 0, trees = 0, compared = 0;
  for (std::size_t i = 0; i < setups.size(); ++i) {
    const auto seed = options.seed + static_cast<std::uint32_t>(i);
    const auto share = [&](double all) {
      return all * static_cast<double>(i + 1) / static_cast<double>(setups.size());
    };
    Oracle oracle(setups[i], seed);
    std::uint64_t own_trees = 0;
    while (elapsed() < share(options.seconds) &&
           static_cast<double>(requests + oracle.requests) < share(static_cast<double>(options.steps))) {
      ++own_trees;
      if (const std::string wrong = oracle.tree(); !wrong.empty()) {
        fmt::print("{} {} threads {} seed {}: tree {}: {}\n", setups[i].model, name(setups[i].kv.format),
                   setups[i].threads, seed, own_trees, wrong);
        return 1;
      }
    }
    const CacheStats stats = oracle.stats();
    fmt::print(
        "{} {} threads {} seed {}: {} trees, {} requests ({} cancelled, {} refused), {} logits equal, {} tokens "
        "reused, {} stopped by a window, {} blocks and {} checkpoints evicted\n",
        setups[i].model, name(setups[i].kv.format), setups[i].threads, seed, own_trees, oracle.requests,
        oracle.cancelled, oracle.refused, oracle.compared, oracle.reused, oracle.windows, stats.evictions,
        stats.checkpoint_evictions);
    std::fflush(stdout);
    requests += oracle.requests;
    trees += own_trees;
    compared += oracle.compared;
  }
  fmt::print("{} trees, {} requests, {} positions: 0 differing bits\n", trees, requests, compared);
  return 0;
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  dalsegno::Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string word = argv[i];
    if (word == "--steps") {
      options.steps = std::strtoull(argv[i + 1], nullptr, 10);
      options.seconds = 1e9;
    } else if (word == "--seconds") {
      options.seconds = std::strtod(argv[i + 1], nullptr);
    } else if (word == "--seed") {
      options.seed = static_cast<std::uint32_t>(std::strtoul(argv[i + 1], nullptr, 10));
    } else if (word == "--model") {
      options.model = argv[i + 1];
    } else {
      fmt::print("usage: engine_oracle [--steps N | --seconds S] [--seed N] [--model NAME]\n");
      return 2;
    }
  }
  return dalsegno::run(options);
}
