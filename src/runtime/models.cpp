#include "dalsegno/models.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "gguf/mapped_file.hpp"
#include "gguf/printable.hpp"
#include "runtime/local_engine.hpp"
#include "runtime/process_memory.hpp"
#include "tensor/kv_format.hpp"

namespace dalsegno {
namespace {

// What tells models apart. The file counts by identity: other names of it are the same model, another file that took
// its name is not. Without the time of its last change of status, which a new link to it moves.
struct Key {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t file_bytes = 0;
  std::int64_t modified = 0;
  KvOptions kv;
  int activation_bits = 0;
  int context = 0;
  MemoryOptions memory;
  double audit_share = 0;
  bool operator==(const Key&) const = default;
};

Result<Key> key_of(const EngineOptions& options) {
  DALSEGNO_ASSIGN(file, MappedFile::open(options.model_path));
  const FileIdentity& is = file.identity();
  KvOptions kv = options.kv;
  if (!is_quantised(kv.format)) kv.group_size = kv.start = 0;
  return Key{is.device,       is.inode,       is.bytes,           is.modified, kv, options.activation_bits,
             options.context, options.memory, options.audit_share};
}

enum class Stage : std::uint8_t {
  waiting,  // for room
  loading,
  ready,
  closing,
  gone,  // no longer listed; with an error if it never was ready
};

// One model. Guarded by the registry's mutex, except what is constant and `stop`.
struct Entry {
  Entry(const Key& model, EngineOptions how) : key(model), options(std::move(how)) {}

  const Key key;
  const EngineOptions options;
  std::stop_source stop;  // of the load; requested only while users == 0, and nobody joins after that
  std::thread loader;     // joined by one of those who wait for it
  Stage stage = Stage::waiting;
  std::unique_ptr<Engine> engine;  // from ready to closing
  std::optional<Error> error;
  std::uint64_t bytes = 0;  // estimated until it is ready
  int users = 0;
  std::uint64_t turn = 0;  // of the latest use
  std::chrono::steady_clock::time_point last_used;

  // Takes part in what the limits bound.
  [[nodiscard]] bool counts() const { return stage != Stage::waiting && stage != Stage::gone; }
  [[nodiscard]] bool is_idle() const { return stage == Stage::ready && users == 0; }
  // Whoever asks for this model now has to wait until it is gone, and loads it again.
  [[nodiscard]] bool leaves() const { return stage >= Stage::closing || stop.stop_requested(); }
};

Error cancelled(const std::string& path) {
  return {ErrorCode::cancelled, fmt::format("{}: loading was cancelled", quoted_path(path))};
}

// True if the budget may not hold so much more, whatever caches give up. It is asked for the size of the file once
// more, as an engine does that opens: room to work with.
bool short_of_memory(const Entry& entry, std::uint64_t bytes) {
  const auto memory = memory_report();
  if (!memory) return false;
  const std::uint64_t held = memory->weights + memory->work + memory->index;
  return held + bytes + entry.key.file_bytes > memory->limit;
}

}  // namespace

struct ModelRegistry::Impl : std::enable_shared_from_this<Impl> {
  using Lock = std::unique_lock<std::mutex>;
  using EntryPtr = std::shared_ptr<Entry>;

  explicit Impl(ModelRegistryOptions how) : options(std::move(how)) {
    if (!options.open) options.open = Engine::open;
    if (!options.clock) options.clock = std::chrono::steady_clock::now;
  }

  Result<std::shared_ptr<Engine>> acquire(const EngineOptions& wanted, const std::stop_token& cancel);
  EntryPtr start(const Key& key, const EngineOptions& wanted);
  Result<void> wait_for(Lock& lock, Entry& entry, const std::stop_token& cancel);
  void release(Entry& entry);

  void run(Entry& entry);
  Result<std::unique_ptr<Engine>> load(Entry& entry);
  Result<void> admit(Entry& entry, std::uint64_t bytes);
  std::string beyond_limits(const Entry& entry, std::uint64_t bytes) const;
  bool make_way(Lock& lock, const std::stop_token& cancel);
  bool close_one(Lock& lock);
  std::string in_use(const Entry& except) const;
  void touch(Entry& entry);
  void remove(Entry& entry);

  ModelRegistryOptions options;  // constant after construction
  mutable std::mutex mutex;
  std::condition_variable_any changed;  // a stage
  // Guarded by mutex.
  std::vector<EntryPtr> entries;
  std::uint64_t turns = 0;
};

// --- Those who ask ---

Result<std::shared_ptr<Engine>> ModelRegistry::Impl::acquire(const EngineOptions& wanted,
                                                             const std::stop_token& cancel) {
  if (options.max_models < 1) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} models at most are not possible; choose 1 or more", options.max_models)};
  }
  DALSEGNO_ASSIGN(key, key_of(wanted));
  Lock lock(mutex);
  EntryPtr entry;
  for (;;) {
    if (cancel.stop_requested()) return cancelled(wanted.model_path);
    const auto found = std::find_if(entries.begin(), entries.end(), [&](const EntryPtr& e) { return e->key == key; });
    entry = found == entries.end() ? start(key, wanted) : *found;
    if (!entry->leaves()) break;
    changed.wait(lock, cancel, [&] { return entry->stage == Stage::gone; });
  }
  ++entry->users;
  DALSEGNO_TRY(wait_for(lock, *entry, cancel));
  touch(*entry);
  return std::shared_ptr<Engine>(entry->engine.get(),
                                 [self = shared_from_this(), entry](Engine*) { self->release(*entry); });
}

// The thread tells of nothing before the caller, who holds the lock, waits for it.
ModelRegistry::Impl::EntryPtr ModelRegistry::Impl::start(const Key& key, const EngineOptions& wanted) {
  auto entry = std::make_shared<Entry>(key, wanted);
  touch(*entry);
  entry->loader = std::thread([this, loaded = entry.get()] { run(*loaded); });
  entries.push_back(entry);
  return entry;
}

// Requires: the caller is counted as a user, and the entry outlives the call.
Result<void> ModelRegistry::Impl::wait_for(Lock& lock, Entry& entry, const std::stop_token& cancel) {
  const bool decided = changed.wait(lock, cancel, [&] { return entry.stage >= Stage::ready; });
  if (!decided) {
    if (--entry.users > 0) return cancelled(entry.options.model_path);
    entry.stop.request_stop();
    changed.wait(lock, [&] { return entry.stage == Stage::gone; });
  }
  if (entry.loader.joinable()) {
    std::thread through = std::move(entry.loader);
    lock.unlock();
    through.join();
    lock.lock();
  }
  if (entry.error) return *entry.error;
  return {};
}

void ModelRegistry::Impl::release(Entry& entry) {
  const Lock lock(mutex);
  --entry.users;
  touch(entry);
}

void ModelRegistry::Impl::touch(Entry& entry) {
  entry.turn = ++turns;
  entry.last_used = options.clock();
}

void ModelRegistry::Impl::remove(Entry& entry) {
  entry.stage = Stage::gone;
  std::erase_if(entries, [&](const EntryPtr& e) { return e.get() == &entry; });
  changed.notify_all();
}

// --- The thread that loads ---

// Nothing may follow that needs the entry once its stage is told and the lock let go.
void ModelRegistry::Impl::run(Entry& entry) {
  Result<std::unique_ptr<Engine>> opened = load(entry);
  Lock lock(mutex);
  if (opened.ok() && entry.stop.stop_requested()) {
    lock.unlock();
    opened = cancelled(entry.options.model_path);  // closes the engine
    lock.lock();
  }
  if (!opened.ok()) {
    entry.error = std::move(opened).error();
    return remove(entry);
  }
  entry.engine = std::move(opened).value();
  entry.stage = Stage::ready;
  touch(entry);
  changed.notify_all();
}

// What the header already tells to be impossible closes no other model.
Result<std::unique_ptr<Engine>> ModelRegistry::Impl::load(Entry& entry) {
  const std::stop_token cancel = entry.stop.get_token();
  DALSEGNO_ASSIGN(needed, LocalEngine::bytes_needed(entry.options));
  DALSEGNO_TRY(admit(entry, needed));
  for (;;) {
    auto opened = options.open(entry.options, cancel);
    if (opened.ok()) {
      const auto* local = dynamic_cast<const LocalEngine*>(opened->get());
      if (local != nullptr) DALSEGNO_TRY(admit(entry, local->bytes()));
      return opened;
    }
    if (opened.error().code != ErrorCode::exhausted) return opened;
    Lock lock(mutex);
    if (make_way(lock, cancel)) continue;
    Error error = std::move(opened).error();
    if (const std::string others = in_use(entry); !others.empty()) error.message += "; " + others;
    return error;
  }
}

// Waits until the limits allow for an entry of so many bytes. That the budget does is tried for, but known only by
// opening.
Result<void> ModelRegistry::Impl::admit(Entry& entry, std::uint64_t bytes) {
  const std::stop_token cancel = entry.stop.get_token();
  Lock lock(mutex);
  for (;;) {
    if (cancel.stop_requested()) return cancelled(entry.options.model_path);
    const std::string beyond = beyond_limits(entry, bytes);
    const bool tight = entry.stage == Stage::waiting && short_of_memory(entry, bytes);
    if ((!beyond.empty() || tight) && make_way(lock, cancel)) continue;
    if (!beyond.empty()) return Error{ErrorCode::exhausted, beyond};
    entry.stage = Stage::loading;
    entry.bytes = bytes;
    return {};
  }
}

// Which limit leaves no room, as a sentence; empty: none.
std::string ModelRegistry::Impl::beyond_limits(const Entry& entry, std::uint64_t bytes) const {
  int models = 0;
  std::uint64_t held = 0;
  for (const EntryPtr& other : entries) {
    if (other.get() == &entry || !other->counts()) continue;
    ++models;
    held += other->bytes;
  }
  const std::string path = quoted_path(entry.options.model_path);
  if (options.max_bytes > 0 && bytes > options.max_bytes) {
    return fmt::format("{} needs {}, but models may take {} at most; raise max_bytes", path, human_bytes(bytes),
                       human_bytes(options.max_bytes));
  }
  if (models >= options.max_models) {
    return fmt::format(
        "{} cannot be loaded: at most {} {} loaded at a time, and {}; let go of one, or raise max_models", path,
        options.max_models, options.max_models == 1 ? "model is" : "models are", in_use(entry));
  }
  if (options.max_bytes > 0 && held + bytes > options.max_bytes) {
    return fmt::format(
        "{} cannot be loaded: it needs {}, models may take {} at most, and {}; let go of one, or raise "
        "max_bytes",
        path, human_bytes(bytes), human_bytes(options.max_bytes), in_use(entry));
  }
  return {};
}

std::string ModelRegistry::Impl::in_use(const Entry& except) const {
  std::vector<std::string> names;
  for (const EntryPtr& other : entries) {
    if (other.get() == &except || !other->counts()) continue;
    const bool same = other->options.model_path == except.options.model_path;
    names.push_back(fmt::format("{} ({}{})", quoted_path(other->options.model_path), human_bytes(other->bytes),
                                same ? ", with other options" : ""));
  }
  if (names.empty()) return {};
  return fmt::format("{} {} in use", fmt::join(names, " and "), names.size() == 1 ? "is" : "are");
}

// Closes a model, or waits for one that somebody else closes. False if there is neither.
bool ModelRegistry::Impl::make_way(Lock& lock, const std::stop_token& cancel) {
  if (close_one(lock)) return true;
  const auto leaving =
      std::find_if(entries.begin(), entries.end(), [](const EntryPtr& e) { return e->stage == Stage::closing; });
  if (leaving == entries.end()) return false;
  const EntryPtr entry = *leaving;
  changed.wait(lock, cancel, [&] { return entry->stage == Stage::gone; });
  return true;
}

// The lock is let go of while the engine closes: its thread ends, and gigabytes go back.
bool ModelRegistry::Impl::close_one(Lock& lock) {
  EntryPtr oldest;
  for (const EntryPtr& entry : entries) {
    if (entry->is_idle() && (oldest == nullptr || entry->turn < oldest->turn)) oldest = entry;
  }
  if (oldest == nullptr) return false;
  oldest->stage = Stage::closing;
  lock.unlock();
  oldest->engine.reset();
  lock.lock();
  remove(*oldest);
  return true;
}

// --- ModelRegistry ---

ModelRegistry::ModelRegistry(ModelRegistryOptions options) : impl_(std::make_shared<Impl>(std::move(options))) {}

ModelRegistry::~ModelRegistry() {
  std::vector<std::shared_ptr<Entry>> left;
  const Impl::Lock lock(impl_->mutex);
  left.swap(impl_->entries);
}

Result<std::shared_ptr<Engine>> ModelRegistry::acquire(const EngineOptions& options, const std::stop_token& cancel) {
  return impl_->acquire(options, cancel);
}

std::vector<LoadedModel> ModelRegistry::report() const {
  const Impl::Lock lock(impl_->mutex);
  std::vector<std::pair<std::uint64_t, LoadedModel>> by_turn;
  for (const auto& entry : impl_->entries) {
    if (!entry->counts()) continue;
    by_turn.push_back({entry->turn,
                       {.path = entry->options.model_path,
                        .bytes = entry->bytes,
                        .users = entry->users,
                        .loading = entry->stage == Stage::loading,
                        .last_used = entry->last_used}});
  }
  std::sort(by_turn.begin(), by_turn.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<LoadedModel> models;
  for (auto& [turn, model] : by_turn) models.push_back(std::move(model));
  return models;
}

int ModelRegistry::close_idle() {
  Impl::Lock lock(impl_->mutex);
  int closed = 0;
  while (impl_->close_one(lock)) ++closed;
  return closed;
}

}  // namespace dalsegno
