#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "base/memory_budget.hpp"
#include "text/grammar.hpp"

namespace dalsegno {

// Which tokens may follow in one text, computed by whoever comes first: the thread below, or who needs to know.
// Threads: start() and take() from one; between them the matcher is not the caller's.
struct MaskJob {
  MaskJob(Matcher at, int vocabulary, std::uint64_t most, std::shared_ptr<std::atomic<bool>> grammar_spent)
      : matcher(std::move(at)), allowed(vocabulary), most_bytes(most), spent(std::move(grammar_spent)) {}

  Matcher matcher;
  TokenMask allowed;
  const std::uint64_t most_bytes;                  // that the grammar may take
  const std::shared_ptr<std::atomic<bool>> spent;  // becomes true where the text cannot go on by a limit
  Result<TextState> state = TextState::open;       // of the text, or why it cannot go on

 private:
  friend class MaskThread;
  enum class Stage : std::uint8_t { idle, queued, running, done };
  // False if another thread does, or did.
  bool compute();
  Result<TextState> masked();
  std::atomic<Stage> stage_{Stage::idle};
};

// Computes masks beside the forward pass. The thread starts with the first job.
class MaskThread {
 public:
  MaskThread() = default;
  ~MaskThread();
  MaskThread(const MaskThread&) = delete;
  MaskThread& operator=(const MaskThread&) = delete;

  void start(const std::shared_ptr<MaskJob>& job);
  // The job is done when this returns; what nobody has begun is computed here. The matcher is the caller's again.
  // Requires: start().
  static void take(MaskJob& job);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::deque<std::shared_ptr<MaskJob>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace dalsegno
