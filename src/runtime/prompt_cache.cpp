#include "dalsegno/prompt_cache.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/prompt_cache_state.hpp"
#include "runtime/saved_cache.hpp"

namespace dalsegno {

Result<PromptCache> PromptCache::make(Engine& any_engine, std::span<const TokenId> tokens, const std::string& salt) {
  auto& engine = dynamic_cast<LocalEngine&>(any_engine);
  DALSEGNO_TRY(engine.check_prompt(tokens));
  DALSEGNO_ASSIGN(id, engine.hold(tokens, salt));
  return PromptCache(std::make_shared<const State>(engine, id, salt, std::vector(tokens.begin(), tokens.end())));
}

int PromptCache::size() const {
  return state_ == nullptr ? 0 : static_cast<int>(state_->tokens.size());
}

std::span<const TokenId> PromptCache::tokens() const {
  if (state_ == nullptr) return {};
  return state_->tokens;
}

KvOptions PromptCache::format() const {
  return state_ == nullptr ? KvOptions{} : state_->engine.numerics_key().kv;
}

const std::string& PromptCache::salt() const {
  static const std::string none;
  return state_ == nullptr ? none : state_->salt;
}

Result<int> PromptCache::trim(int tokens) {
  if (tokens < 0) return Error{ErrorCode::invalid_argument, "a negative number of tokens cannot be trimmed"};
  const int wanted = std::max(0, size() - tokens);
  if (wanted == size()) return wanted;
  if (wanted == 0) {
    state_.reset();
    return 0;
  }
  LocalEngine& engine = state_->engine;
  const std::uint64_t id = engine.next_held();
  Result<int> kept = 0;
  engine.scheduler().with_held([&](HeldTables& held) { kept = held.hold_fork(id, *held.find(state_->id), wanted); });
  DALSEGNO_TRY(kept);
  const auto begin = state_->tokens.begin();
  state_ = std::make_shared<const State>(engine, id, state_->salt, std::vector(begin, begin + kept.value()));
  return kept;
}

Result<void> PromptCache::save(const std::string& path) const {
  if (size() == 0) {
    return Error{ErrorCode::invalid_argument, fmt::format("'{}' was not saved: the cache has no tokens", path)};
  }
  return save_cache(system_files(), path, state_->engine, *this);
}

Result<PromptCache> PromptCache::load(Engine& engine, const std::string& path, const std::string& salt) {
  DALSEGNO_ASSIGN(saved, load_cache(system_files(), path, engine, salt));
  return std::move(saved.cache);
}

}  // namespace dalsegno
