#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/memory_budget.hpp"
#include "dalsegno/memory.hpp"
#include "dalsegno/result.hpp"
#include "runtime/memory_limit.hpp"

namespace dalsegno {

// The memory of the process: one budget that all open engines share, and the places that can be asked to hold less.
// It frees nothing itself. Exists while somebody has joined; the first to join sets the limits.
// Threads: any.
class ProcessMemory : public std::enable_shared_from_this<ProcessMemory> {
 public:
  // Where the system tells of memory pressure, and how often to look. Of no effect but for the first to join.
  struct Watch {
    PressurePaths paths = pressure_paths();
    int interval_ms = 1000;  // two reads of a small file: microseconds
  };
  // Errors: invalid_argument (others have joined with other options, or the idle limit is above the limit).
  static Result<std::shared_ptr<ProcessMemory>> join(const MemoryOptions& options, const Watch& watch);
  static Result<std::shared_ptr<ProcessMemory>> join(const MemoryOptions& options) { return join(options, Watch()); }
  // What is joined now, or nullptr.
  static std::shared_ptr<ProcessMemory> current();
  ~ProcessMemory();
  ProcessMemory(const ProcessMemory&) = delete;
  ProcessMemory& operator=(const ProcessMemory&) = delete;

  [[nodiscard]] MemoryBudget& budget() { return budget_; }
  [[nodiscard]] std::uint64_t idle_limit() const { return idle_limit_; }

  // While one of these exists, the process is active. When the last goes, holders shrink to the idle limit.
  class Use {
   public:
    Use() = default;
    Use(Use&& other) noexcept = default;
    Use& operator=(Use&& other) noexcept;
    ~Use() { end(); }
    void end();
    [[nodiscard]] bool is_on() const { return memory_ != nullptr; }

   private:
    friend class ProcessMemory;
    explicit Use(std::shared_ptr<ProcessMemory> memory) : memory_(std::move(memory)) {}
    std::shared_ptr<ProcessMemory> memory_;
  };
  [[nodiscard]] Use use();
  [[nodiscard]] bool is_active() const;

  // How much to give back.
  struct Cut {
    std::uint64_t target = 0;   // of the budget's use; what is cached goes until then
    bool only_if_idle = false;  // no longer if something runs by now
    bool buffers = false;       // step buffers too
    std::function<void()> done = {};
  };
  // Must not block; calls cut.done when it is through.
  using Holder = std::function<void(const Cut& cut)>;
  // Requires: remove() before the holder's end. `id` is any address of the holder's own.
  void add(const void* id, Holder holder);
  void remove(const void* id);
  // What a holder that runs nothing would not give up if asked, in bytes: pins and their like. 0 while it runs
  // something.
  void set_kept(const void* id, std::uint64_t bytes);
  // By all holders but `except`.
  [[nodiscard]] std::uint64_t kept(const void* except) const;
  // Asks all holders but `except`; returns at once, with the number that were asked.
  int ask(const Cut& cut, const void* except = nullptr);
  // The same, and waits until they are through, or no longer when cancelled.
  void ask_and_wait(Cut cut, const void* except = nullptr, const std::stop_token& cancel = {});
  [[nodiscard]] MemoryReport report() const;

 private:
  struct Entry {
    const void* id;
    Holder holder;
    std::uint64_t kept = 0;
  };
  ProcessMemory(const MemoryOptions& options, std::uint64_t limit, std::uint64_t idle_limit);
  void watch(const Watch& how);
  void end_use();

  // constant after construction
  const MemoryOptions options_;
  const std::uint64_t idle_limit_;
  MemoryBudget budget_;

  mutable std::mutex mutex_;
  std::condition_variable stop_;
  // Guarded by mutex_.
  std::vector<Entry> holders_;
  int uses_ = 0;
  std::uint64_t pressure_ = 0;
  bool stopping_ = false;

  std::thread watcher_;  // last; not there if the system has no such files
};

}  // namespace dalsegno
