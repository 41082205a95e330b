#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"

// What both sides of the oracle are made of: a kind of engine, and what was seen of a conversation.
namespace dalsegno::oracle {

using Tokens = std::vector<TokenId>;
using Bits = std::vector<std::uint32_t>;  // of the logits of one position

struct Setup {
  const char* model;
  KvOptions kv;
  int threads = 1;
  int activation_bits = 8;
  const char* eviction = "value";
  const char* draft = nullptr;  // a tiny model that guesses; nullptr: none
};

// Ends the program with a sentence if it cannot be opened.
std::unique_ptr<LocalEngine> open(const Setup& setup);

[[nodiscard]] Bits bits_of(std::span<const float> logits);
[[nodiscard]] TokenId likeliest(std::span<const float> logits);

// The logits that somebody was shown of these tokens.
struct Seen {
  Tokens tokens;
  std::map<int, Bits> logits;
  int reused = 0;
};

// How often each thing happened that the oracle is there for. A full run fails if one never did.
class Counts {
 public:
  explicit Counts(std::vector<const char*> names) {
    for (const char* each : names) counts_.emplace_back(each, 0);
  }
  void add(const std::string& name, std::uint64_t more = 1);
  [[nodiscard]] std::uint64_t of(const std::string& name) const;
  // One line for each; false if there is a zero.
  bool print() const;

 private:
  std::vector<std::pair<std::string, std::uint64_t>> counts_;
};

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  int below(int limit) { return static_cast<int>(engine_() % static_cast<unsigned>(limit)); }
  bool one_in(int odds) { return below(odds) == 0; }
  std::uint32_t word() { return static_cast<std::uint32_t>(engine_()); }

 private:
  std::mt19937 engine_;
};

// The draft model's guesses for a request; null: there is none.
[[nodiscard]] std::shared_ptr<Drafter> drafter_of_model(LocalEngine& engine, const Work& work);
// As many tokens at a time as it likes, and sometimes all that it holds is gone. Engine thread only.
void disturb_draft_model(LocalEngine& engine, Random& random);

}  // namespace dalsegno::oracle
