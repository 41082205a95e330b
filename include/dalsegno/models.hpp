#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "dalsegno/engine.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno {

struct ModelRegistryOptions {
  int max_models = 1;  // loaded or loading at any moment, at most
  std::uint64_t max_bytes =
      0;  // what they take together, at most, as LoadedModel::bytes; 0: what the memory budget has
  // Instead of Engine::open and the system's clock: for tests and to watch. May be called from several threads at once.
  std::function<Result<std::unique_ptr<Engine>>(const EngineOptions& options, const std::stop_token& cancel)> open{};
  std::function<std::chrono::steady_clock::time_point()> clock{};
};

struct LoadedModel {
  std::string path;         // as it was asked for first
  std::uint64_t bytes = 0;  // weights, work buffers and tables; what it caches gives way by itself, see docs/memory.md
  int users = 0;            // how many acquired it or wait for it; it is not closed before that is 0
  bool loading = false;
  std::chrono::steady_clock::time_point last_used{};  // the latest time at which it was acquired or let go
};

// The models of a process, each loaded once however many ask for it. When the next one has no room, those that nobody
// uses are closed, the one used longest ago first; a model in use never is.
// Threads: any. Loading blocks those who wait for that model and nobody else.
class ModelRegistry {
 public:
  explicit ModelRegistry(ModelRegistryOptions options = {});
  // Closes the models; one in use is closed by its last user. Requires: no call is running.
  ~ModelRegistry();
  ModelRegistry(const ModelRegistry&) = delete;
  ModelRegistry& operator=(const ModelRegistry&) = delete;

  // The open engine of a model, loaded first if it is not there. It is in use while a copy of the pointer exists;
  // sessions and batches on it do not keep one.
  // Options that affect behaviour tell models apart (the file by what it is, not by its name); of the others, those of
  // whoever came first hold. A cancelled call leaves the load to those who also wait for it; the last one to be
  // cancelled ends it, and returns when all that was loaded has been freed.
  // Errors: as Engine::open (the same for all who wait), exhausted (models in use leave no room, named), cancelled.
  Result<std::shared_ptr<Engine>> acquire(const EngineOptions& options, const std::stop_token& cancel = {});

  // What is loaded or loading, the most recently used first.
  [[nodiscard]] std::vector<LoadedModel> report() const;
  // Closes what nobody uses. Returns how many models that was.
  int close_idle();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace dalsegno
