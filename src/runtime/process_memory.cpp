#include "runtime/process_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

namespace dalsegno {
namespace {

struct Joined {
  std::mutex mutex;
  std::weak_ptr<ProcessMemory> memory;
};

Joined& joined() {
  static Joined instance;
  return instance;
}

std::string words_for(const MemoryOptions& options) {
  std::string words = options.bytes > 0 ? human_bytes(options.bytes) : name(options.preset);
  if (options.idle_bytes) words += fmt::format(" with {} when idle", human_bytes(*options.idle_bytes));
  return words;
}

}  // namespace

Result<std::shared_ptr<ProcessMemory>> ProcessMemory::join(const MemoryOptions& options, const Watch& watch) {
  const std::lock_guard lock(joined().mutex);
  if (auto memory = joined().memory.lock()) {
    if (memory->options_ == options) return memory;
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the process's memory budget is set to {}, but this engine asks for {}; ask for the same, "
                             "or close the other engines first",
                             words_for(memory->options_), words_for(options))};
  }
  const MemoryLimits limits = memory_limits(options, machine_memory());
  if (limits.idle > limits.active) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the idle limit of {} is above the memory budget of {}; lower it or raise --memory",
                             human_bytes(limits.idle), human_bytes(limits.active))};
  }
  std::shared_ptr<ProcessMemory> memory(new ProcessMemory(options, limits.active, limits.idle));
  if (options.preset != MemoryPreset::unconstrained) memory->watch(watch);
  joined().memory = memory;
  return memory;
}

std::shared_ptr<ProcessMemory> ProcessMemory::current() {
  const std::lock_guard lock(joined().mutex);
  return joined().memory.lock();
}

ProcessMemory::ProcessMemory(const MemoryOptions& options, std::uint64_t limit, std::uint64_t idle_limit)
    : options_(options), idle_limit_(idle_limit), budget_(limit) {}

ProcessMemory::~ProcessMemory() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

// --- Use ---

ProcessMemory::Use& ProcessMemory::Use::operator=(Use&& other) noexcept {
  if (this == &other) return *this;
  end();
  memory_ = std::move(other.memory_);
  return *this;
}

void ProcessMemory::Use::end() {
  if (auto memory = std::exchange(memory_, nullptr)) memory->end_use();
}

ProcessMemory::Use ProcessMemory::use() {
  const std::lock_guard lock(mutex_);
  ++uses_;
  return Use(shared_from_this());
}

void ProcessMemory::end_use() {
  {
    const std::lock_guard lock(mutex_);
    if (--uses_ > 0) return;
  }
  if (budget_.used() > idle_limit_) ask({.target = idle_limit_, .only_if_idle = true});
}

bool ProcessMemory::is_active() const {
  const std::lock_guard lock(mutex_);
  return uses_ > 0;
}

// --- Holders ---

void ProcessMemory::add(const void* id, Holder holder) {
  const std::lock_guard lock(mutex_);
  holders_.push_back({id, std::move(holder), 0});
}

void ProcessMemory::remove(const void* id) {
  const std::lock_guard lock(mutex_);
  std::erase_if(holders_, [id](const Entry& entry) { return entry.id == id; });
}

void ProcessMemory::set_kept(const void* id, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  for (Entry& entry : holders_) {
    if (entry.id == id) entry.kept = bytes;
  }
}

std::uint64_t ProcessMemory::kept(const void* except) const {
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = 0;
  for (const Entry& entry : holders_) bytes += entry.id == except ? 0 : entry.kept;
  return bytes;
}

int ProcessMemory::ask(const Cut& cut, const void* except) {
  const std::lock_guard lock(mutex_);
  int asked = 0;
  for (const Entry& entry : holders_) {
    if (entry.id == except) continue;
    entry.holder(cut);
    ++asked;
  }
  return asked;
}

// The promise goes with the last copy of `done`: also when an engine ends before it was asked.
void ProcessMemory::ask_and_wait(Cut cut, const void* except, const std::stop_token& cancel) {
  auto all = std::make_shared<std::promise<void>>();
  const std::future<void> done = all->get_future();
  cut.done = [all = std::move(all), then = std::move(cut.done)] {
    if (then) then();
  };
  ask(cut, except);
  cut.done = nullptr;
  if (!cancel.stop_possible()) return done.wait();
  constexpr std::chrono::milliseconds kLook{5};
  while (!cancel.stop_requested() && done.wait_for(kLook) != std::future_status::ready) {
  }
}

MemoryReport ProcessMemory::report() const {
  const std::lock_guard lock(mutex_);
  return {.limit = budget_.limit(),
          .idle_limit = idle_limit_,
          .weights = budget_.used(MemoryKind::weights),
          .kv = budget_.used(MemoryKind::kv),
          .index = budget_.used(MemoryKind::index),
          .log_probs = budget_.used(MemoryKind::log_probs),
          .work = budget_.used(MemoryKind::work),
          .engines = static_cast<int>(holders_.size()),
          .active = uses_ > 0,
          .pressure = pressure_};
}

std::optional<MemoryReport> memory_report() {
  const auto memory = ProcessMemory::current();
  if (memory == nullptr) return std::nullopt;
  return memory->report();
}

void release_all() {
  if (const auto memory = ProcessMemory::current()) memory->ask_and_wait({.target = 0, .buffers = true});
}

// --- Pressure ---

void ProcessMemory::watch(const Watch& how) {
  if (!PressureWatch(how.paths).can_tell()) return;
  watcher_ = std::thread([this, pressure = PressureWatch(how.paths), how]() mutable {
    const std::uint64_t target = std::min(idle_limit_, budget_.limit() / 2);
    std::unique_lock lock(mutex_);
    while (!stop_.wait_for(lock, std::chrono::milliseconds(how.interval_ms), [this] { return stopping_; })) {
      if (!pressure.look()) continue;
      lock.unlock();
      ask({.target = target});
      lock.lock();
      ++pressure_;
    }
  });
}

}  // namespace dalsegno
