#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/engine.hpp"

namespace dalsegno {

// The K/V of a sequence of tokens, which stay whatever needs room, as a value: copies share them and cost nothing, and
// what is done to one changes no other. They are in the engine's cache as well, so that every request that begins with
// these tokens reuses them.
// What all prompt caches and pins keep may take half of the room for K/V, those of a salt its quota.
// Requires: the engine outlives it. Threads: different objects, any; one object, one at a time.
class PromptCache {
 public:
  PromptCache() = default;  // of no tokens
  // Computes what is not cached yet. Errors: as Engine::generate, and exhausted (no room beside what is kept already).
  static Result<PromptCache> make(Engine& engine, std::span<const TokenId> tokens, const std::string& salt = {});

  [[nodiscard]] int size() const;  // tokens
  [[nodiscard]] std::span<const TokenId> tokens() const;
  [[nodiscard]] KvOptions format() const;
  [[nodiscard]] const std::string& salt() const;

  [[nodiscard]] PromptCache fork() const { return *this; }
  // Forgets the last `tokens` tokens, all if there are no more. Returns how many are left: fewer where a sliding window
  // lacks what comes before. On an error it is as it was. Errors: invalid_argument (a negative number), exhausted.
  Result<int> trim(int tokens);

  // One file, as docs/saved_caches.md describes it, which takes the place of another at once or not at all.
  // Errors: not_found (no such folder), io, invalid_argument (there is nothing to save), corrupt (an audit has found
  // the cache damaged since), exhausted.
  Result<void> save(const std::string& path) const;
  // Nothing of a file is used before all of it has been checked. Errors: not_found, invalid_argument (no regular file),
  // io, corrupt (damaged, or no saved cache), unsupported (of another model, format or version; the sentence says
  // which), exhausted.
  static Result<PromptCache> load(Engine& engine, const std::string& path, const std::string& salt = {});

  // For what else keeps sequences; see runtime/prompt_cache_state.hpp.
  struct State;
  explicit PromptCache(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  [[nodiscard]] const std::shared_ptr<const State>& state() const { return state_; }

 private:
  std::shared_ptr<const State> state_;
};

}  // namespace dalsegno
