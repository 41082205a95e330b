#include "dalsegno/conversations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "base/files.hpp"
#include "runtime/local_engine.hpp"
#include "runtime/saved_cache.hpp"
#include "runtime/tool_calls.hpp"
#include "store/checksum.hpp"

namespace dalsegno {
namespace {

constexpr std::string_view kSuffix = ".safetensors";

std::string hash_of(const std::string& text) {
  return hex(sha256(std::as_bytes(std::span(text))));
}

}  // namespace

struct Conversations::Impl {
  // Names a conversation, in memory and as a file: hashes of its id, and of what else tells it apart.
  struct Kept {
    std::string name;
    Session session;
  };

  Impl(LocalEngine& its_engine, ConversationOptions its_options)
      : engine(its_engine), options(std::move(its_options)) {}

  [[nodiscard]] std::string path_of(const std::string& key) const {
    return fmt::format("{}/{}{}", options.folder, key, kSuffix);
  }
  Result<std::string> key_of(const std::string& id, const SessionOptions& session) const;
  std::optional<Session> take(const std::string& key);
  void keep(const std::string& key, Session session);
  Result<void> save(const std::string& key, Session& session);
  Result<void> forget_oldest_files();

  LocalEngine& engine;
  const ConversationOptions options;

  std::mutex mutex;
  // Guarded by mutex.
  std::list<Kept> kept;           // used last at the front
  std::set<std::string> in_use;   // keys
  std::set<std::string> invalid;  // of those in use
};

struct Conversations::Lease::State {
  std::shared_ptr<Impl> store;
  std::string key;
  Session session;
  ConversationFrom from = ConversationFrom::created;
  std::string refusal{};
  bool closed = false;
};

const char* name(ConversationFrom from) {
  switch (from) {
    case ConversationFrom::created:
      return "created";
    case ConversationFrom::memory:
      return "memory";
    case ConversationFrom::disk:
      break;
  }
  return "disk";
}

Result<std::string> Conversations::Impl::key_of(const std::string& id, const SessionOptions& session) const {
  std::string definitions;
  if (!session.tools.empty()) {
    DALSEGNO_ASSIGN(json, tools_json(session.tools));
    definitions = std::move(json);
  }
  std::string rest;
  for (const auto& [key, value] : key_metadata(engine.numerics_key())) rest += fmt::format("{}={}\n", key, value);
  for (const std::string& part : {session.instructions, definitions}) rest += fmt::format("{} {}\n", part.size(), part);
  for (const Message& message : session.messages) {
    for (const std::string& part : {message.role, message.content, message.name}) {
      rest += fmt::format("{} {}\n", part.size(), part);
    }
  }
  return hash_of(id) + "-" + hash_of(rest);
}

std::optional<Session> Conversations::Impl::take(const std::string& key) {
  const auto at = std::ranges::find(kept, key, &Kept::name);
  if (at == kept.end()) return std::nullopt;
  std::optional<Session> session(std::move(at->session));
  kept.erase(at);
  return session;
}

void Conversations::Impl::keep(const std::string& key, Session session) {
  std::list<Kept> dropped;  // destroyed without the lock
  const std::lock_guard lock(mutex);
  in_use.erase(key);
  if (invalid.erase(key) > 0) {
    dropped.push_back({key, std::move(session)});
    return;
  }
  kept.push_front({key, std::move(session)});
  while (kept.size() > static_cast<std::size_t>(options.most_in_memory)) {
    dropped.splice(dropped.end(), kept, std::prev(kept.end()));
  }
}

Result<void> Conversations::Impl::save(const std::string& key, Session& session) {
  if (options.folder.empty()) return {};
  {
    const std::lock_guard lock(mutex);
    if (invalid.contains(key)) return {};
  }
  DALSEGNO_TRY(session.save(path_of(key)));
  return forget_oldest_files();
}

Result<void> Conversations::Impl::forget_oldest_files() {
  DALSEGNO_ASSIGN(files, system_files().list(options.folder));
  std::erase_if(files, [](const FileSystem::Entry& entry) { return !entry.name.ends_with(kSuffix); });
  const auto most = static_cast<std::size_t>(options.most_on_disk);
  if (files.size() <= most) return {};
  std::ranges::stable_sort(files, std::greater{}, &FileSystem::Entry::modified);
  for (std::size_t i = most; i < files.size(); ++i) {
    Result<void> removed = system_files().remove(options.folder + "/" + files[i].name);
    if (!removed.ok() && removed.error().code != ErrorCode::not_found) return removed;
  }
  return {};
}

Conversations::Conversations(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Conversations::~Conversations() = default;

Result<std::unique_ptr<Conversations>> Conversations::open(Engine& engine, ConversationOptions options) {
  if (options.most_in_memory < 0 || options.most_on_disk < 0) {
    return Error{ErrorCode::invalid_argument, "a negative number of conversations cannot be kept"};
  }
  if (!options.folder.empty()) DALSEGNO_TRY(system_files().make_folder(options.folder));
  auto impl = std::make_shared<Impl>(dynamic_cast<LocalEngine&>(engine), std::move(options));
  return std::unique_ptr<Conversations>(new Conversations(std::move(impl)));
}

Result<Conversations::Lease> Conversations::use(const std::string& id, const SessionOptions& options) {
  if (id.empty()) return Error{ErrorCode::invalid_argument, "a conversation needs an id"};
  DALSEGNO_ASSIGN(key, impl_->key_of(id, options));
  std::optional<Session> session;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->in_use.insert(key).second) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("conversation '{}' is in use; wait until that use ends", id)};
    }
    session = impl_->take(key);
  }
  const auto leave = [&](Error error) {
    const std::lock_guard lock(impl_->mutex);
    impl_->in_use.erase(key);
    impl_->invalid.erase(key);
    return error;
  };
  ConversationFrom from = session ? ConversationFrom::memory : ConversationFrom::created;
  std::string refusal;
  if (!session && !impl_->options.folder.empty()) {
    Result<Session> loaded = Session::load(impl_->engine, impl_->path_of(key), options.tools, impl_->options.salt);
    if (loaded.ok()) {
      session = std::move(loaded).value();
      from = ConversationFrom::disk;
    } else if (loaded.error().code != ErrorCode::not_found) {
      refusal = loaded.error().message;
    }
  }
  if (!session) {
    Result<Session> created = Session::create(impl_->engine, options);
    if (!created.ok()) return leave(std::move(created).error());
    session = std::move(created).value();
  }
  return Lease(std::make_unique<Lease::State>(Lease::State{impl_, key, std::move(*session), from, std::move(refusal)}));
}

Result<void> Conversations::invalidate(const std::string& id) {
  const std::string prefix = hash_of(id) + "-";
  std::list<Impl::Kept> dropped;  // destroyed without the lock
  {
    const std::lock_guard lock(impl_->mutex);
    for (auto at = impl_->kept.begin(); at != impl_->kept.end();) {
      const auto next = std::next(at);
      if (at->name.starts_with(prefix)) dropped.splice(dropped.end(), impl_->kept, at);
      at = next;
    }
    for (const std::string& key : impl_->in_use) {
      if (key.starts_with(prefix)) impl_->invalid.insert(key);
    }
  }
  if (impl_->options.folder.empty()) return {};
  DALSEGNO_ASSIGN(files, system_files().list(impl_->options.folder));
  for (const FileSystem::Entry& entry : files) {
    if (!entry.name.starts_with(prefix)) continue;
    Result<void> removed = system_files().remove(impl_->options.folder + "/" + entry.name);
    if (!removed.ok() && removed.error().code != ErrorCode::not_found) return removed;
  }
  return system_files().sync_folder(impl_->options.folder);
}

Conversations::Lease::Lease(std::unique_ptr<State> state) : state_(std::move(state)) {}
Conversations::Lease::Lease(Lease&&) noexcept = default;

Conversations::Lease::~Lease() {
  if (state_ != nullptr && !state_->closed) state_->store->keep(state_->key, std::move(state_->session));
}

Session& Conversations::Lease::session() {
  return state_->session;
}

ConversationFrom Conversations::Lease::from() const {
  return state_->from;
}

const std::string& Conversations::Lease::refusal() const {
  return state_->refusal;
}

Result<void> Conversations::Lease::close() {
  if (state_->closed) return Error{ErrorCode::invalid_argument, "the conversation is closed already; use() it again"};
  state_->closed = true;
  Result<void> saved = state_->store->save(state_->key, state_->session);
  state_->store->keep(state_->key, std::move(state_->session));
  return saved;
}

}  // namespace dalsegno
