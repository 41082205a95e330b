#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace dalsegno {

// A fork-join pool: run() calls job(part, parts) once for each of as many parts as there are threads, the
// caller's among them, and returns when all are done. A thread runs the same part of every call if it can, so that
// what the part needs again is still in its core's cache; a worker that the system keeps waiting has its share done by
// the others. Workers spin briefly, then park: an idle pool
// uses no CPU. Each part runs under a FloatState. Results must not depend on the number of parts.
// Threads: run() from one thread at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int threads() const;

  // Job: callable as void(int part, int parts).
  template <class Job>
  void run(Job&& job) {
    dispatch(
        [](void* context, int part, int parts) { (*static_cast<std::remove_reference_t<Job>*>(context))(part, parts); },
        &job);
  }

 private:
  using Call = void (*)(void* context, int part, int parts);
  void dispatch(Call call, void* context);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
