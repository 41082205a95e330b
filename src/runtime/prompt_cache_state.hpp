#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dalsegno/prompt_cache.hpp"
#include "runtime/local_engine.hpp"

namespace dalsegno {

// A held table and its tokens.
struct PromptCache::State {
  State(LocalEngine& its_engine, std::uint64_t held, std::string its_salt, std::vector<TokenId> its_tokens)
      : engine(its_engine), id(held), salt(std::move(its_salt)), tokens(std::move(its_tokens)) {}
  ~State() { engine.scheduler().release(id); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  LocalEngine& engine;
  const std::uint64_t id;
  const std::string salt;
  const std::vector<TokenId> tokens;
};

}  // namespace dalsegno
