#include "oracle/engines.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace dalsegno::oracle {
namespace {

// Of both engines: weights and buffers of either, an extent of pages for the plain one, the rest for the other.
constexpr std::uint64_t kMemory = 192ULL << 20;

}  // namespace

std::unique_ptr<LocalEngine> open(const Setup& setup) {
  EngineOptions options;
  options.model_path = fmt::format("{}/tiny/{}.gguf", DALSEGNO_GOLDEN, setup.model);
  options.kv = setup.kv;
  options.threads = setup.threads;
  options.activation_bits = setup.activation_bits;
  options.eviction = setup.eviction;
  if (setup.draft != nullptr) {
    options.draft_model_path = fmt::format("{}/tiny/{}.gguf", DALSEGNO_GOLDEN, setup.draft);
  }
  options.memory.bytes = kMemory;
  auto engine = LocalEngine::open(options);
  if (!engine.ok()) {
    fmt::print("error: {}\n", engine.error().message);
    std::exit(1);
  }
  return std::move(engine).value();
}

std::shared_ptr<Drafter> drafter_of_model(LocalEngine& engine, const Work& work) {
  if (engine.draft_model() == nullptr) return nullptr;
  GenerateOptions options;
  options.reuse = work.reuse;
  options.salt = work.salt;
  return engine.drafter_for(options);
}

void disturb_draft_model(LocalEngine& engine, Random& random) {
  DraftModel* const model = engine.draft_model();
  if (model == nullptr) return;
  model->guess_always(1 + random.below(random.one_in(4) ? 16 : 4));
  if (random.one_in(12)) model->release(random.one_in(2));
}

Bits bits_of(std::span<const float> logits) {
  Bits bits(logits.size());
  std::memcpy(bits.data(), logits.data(), logits.size_bytes());
  return bits;
}

TokenId likeliest(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void Counts::add(const std::string& name, std::uint64_t more) {
  const auto at = std::ranges::find(counts_, name, &std::pair<std::string, std::uint64_t>::first);
  if (at == counts_.end()) {
    fmt::print("error: the oracle does not count '{}'\n", name);
    std::exit(1);
  }
  at->second += more;
}

std::uint64_t Counts::of(const std::string& name) const {
  const auto at = std::ranges::find(counts_, name, &std::pair<std::string, std::uint64_t>::first);
  return at == counts_.end() ? 0 : at->second;
}

bool Counts::print() const {
  bool all = true;
  for (const auto& [name, count] : counts_) {
    fmt::print("{:>10}  {}{}\n", count, name, count == 0 ? "  <- never" : "");
    all &= count > 0;
  }
  return all;
}

}  // namespace dalsegno::oracle
