#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/prompt_cache_state.hpp"
#include "runtime/saved_cache.hpp"
#include "runtime/session_impl.hpp"
#include "runtime/session_json.hpp"
#include "runtime/tool_calls.hpp"

// Sessions that outlive their process.

namespace dalsegno {
namespace {

// The saved tools with the handlers of those given. Errors: invalid_argument (they are not the same).
Result<void> attach(const std::vector<Tool>& tools, Session::Impl::State& state) {
  if (tools.empty()) return {};
  DALSEGNO_ASSIGN(given, tools_json(tools));
  if (given != state.tools_json) {
    return Error{ErrorCode::invalid_argument,
                 "the tools given are not those that the session was saved with, so that its prompts would change; "
                 "give the same ones or none"};
  }
  state.tools = std::make_shared<const std::vector<Tool>>(tools);
  return {};
}

}  // namespace

Result<void> Session::Impl::save(FileSystem& files, const std::string& path) {
  auto& local = dynamic_cast<LocalEngine&>(engine);
  std::vector<TokenId> tokens = state.prompts.latest();
  const std::size_t most = std::min(tokens.size(), static_cast<std::size_t>(engine.context()));
  tokens.resize(most);
  PromptCache cache;
  if (!tokens.empty()) {
    const std::string& salt = state.options.salt;
    DALSEGNO_ASSIGN(id, local.hold(tokens, salt, HeldTables::Keep::while_used));
    cache = PromptCache(std::make_shared<const PromptCache::State>(local, id, salt, std::move(tokens)));
  }
  return save_cache(files, path, local, cache, session_to_json(state, forks));
}

Result<std::unique_ptr<Session::Impl>> Session::Impl::load(FileSystem& files, const std::string& path, Engine& engine,
                                                           const std::vector<Tool>& tools, const std::string& salt) {
  DALSEGNO_ASSIGN(saved, load_cache(files, path, engine, salt, HeldTables::Keep::while_used));
  if (saved.attached.empty()) {
    return Error{ErrorCode::unsupported, fmt::format("'{}' is a saved cache without a session", path)};
  }
  auto read = session_from_json(saved.attached, dynamic_cast<LocalEngine&>(engine).config().vocabulary);
  if (!read.ok()) {
    return Error{read.error().code, fmt::format("'{}' cannot be used: {}", path, read.error().message)};
  }
  DALSEGNO_TRY(attach(tools, read->state));
  read->state.options.salt = salt;
  auto impl = std::make_unique<Impl>(engine, std::move(read->state));
  impl->forks = read->forks;
  impl->loaded = std::move(saved.cache);
  return impl;
}

Result<void> Session::save(const std::string& path) {
  const Impl::Claim claim(*impl_);
  DALSEGNO_TRY(claim.check());
  return impl_->save(system_files(), path);
}

Result<Session> Session::load(Engine& engine, const std::string& path, const std::vector<Tool>& tools,
                              const std::string& salt) {
  DALSEGNO_ASSIGN(impl, Impl::load(system_files(), path, engine, tools, salt));
  return Session(std::move(impl));
}

}  // namespace dalsegno
