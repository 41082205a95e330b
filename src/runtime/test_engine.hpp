#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"

namespace dalsegno::testing {

// Under a sanitizer everything takes ten to thirty times as long, and it looks for what any round shows: a fifth of
// them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
inline constexpr int rounds(int usual) {
  return kSanitized ? usual / 5 : usual;
}

inline std::string tiny_model(const std::string& name) {
  return std::string(DALSEGNO_GOLDEN) + "/tiny/" + name + ".gguf";
}

struct TestEngineOptions {
  std::string model = "llama-gqa";
  KvOptions kv = {};
  int activation_bits = 8;
  int threads = 2;
  int context = 0;
  std::uint64_t memory_bytes = 256ULL << 20;
  std::optional<std::uint64_t> idle_bytes = {};
  double step_ms = 50;
  std::string eviction = "value";
  std::string draft = {};  // a tiny model, or a path; empty: none
};

inline std::unique_ptr<LocalEngine> open_engine(const TestEngineOptions& options = {}) {
  EngineOptions engine;
  engine.model_path = tiny_model(options.model);
  engine.kv = options.kv;
  engine.activation_bits = options.activation_bits;
  engine.threads = options.threads;
  engine.step_ms = options.step_ms;
  engine.context = options.context;
  engine.memory = {.bytes = options.memory_bytes, .idle_bytes = options.idle_bytes};
  engine.eviction = options.eviction;
  if (!options.draft.empty()) {
    engine.draft_model_path = options.draft.find('/') == std::string::npos ? tiny_model(options.draft) : options.draft;
  }
  auto opened = LocalEngine::open(engine);
  EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message);
  return opened.ok() ? std::move(opened).value() : nullptr;
}

// Keeps the bits of the logits of every position it is shown, and follows them greedily for `steps` tokens.
class Recorder : public Waiter {
 public:
  explicit Recorder(int steps = 0) : steps_(steps) {}
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId> tokens) override {
    std::vector<std::uint32_t>& bits = logits_[position];
    EXPECT_TRUE(bits.empty()) << "position " << position << " came twice";
    bits.resize(logits.size());
    std::memcpy(bits.data(), logits.data(), logits.size_bytes());
    if (position + 1 < static_cast<int>(tokens.size()) || steps_ == 0) return {};
    if (taken_++ == steps_) return {Decision::Kind::finish, 0, FinishReason::length};
    const auto best = std::max_element(logits.begin(), logits.end());
    reply.push_back(static_cast<TokenId>(best - logits.begin()));
    return {Decision::Kind::append, reply.back(), FinishReason::length};
  }
  [[nodiscard]] const std::map<int, std::vector<std::uint32_t>>& logits() const { return logits_; }
  std::vector<TokenId> reply;

 private:
  const int steps_;
  int taken_ = 0;
  std::map<int, std::vector<std::uint32_t>> logits_;
};

inline std::vector<TokenId> random_tokens(std::mt19937& random, int count, int vocabulary = 264) {
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % static_cast<unsigned>(vocabulary));
  return tokens;
}

struct RunOptions {
  int from = 0;  // first position whose logits are wanted
  int chunk = 512;
  bool reuse = true;
  int steps = 0;
};

inline std::shared_ptr<Recorder> run(LocalEngine& engine, const std::vector<TokenId>& tokens,
                                     const RunOptions& options = {}) {
  auto recorder = std::make_shared<Recorder>(options.steps);
  std::vector<Work> work;
  work.push_back({recorder, tokens, options.from, options.chunk, options.reuse});
  engine.scheduler().submit(std::move(work));
  const Result<FinishReason> end = recorder->wait();
  EXPECT_TRUE(end.ok()) << (end.ok() ? "" : end.error().message);
  return recorder;
}

inline void check_cache(LocalEngine& engine) {
  engine.scheduler().on_engine_thread([](KvCache& cache) { EXPECT_EQ(cache.check_invariants(), ""); });
}

}  // namespace dalsegno::testing
