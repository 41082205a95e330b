#include "runtime/mask_thread.hpp"

#include <fmt/format.h>

#include <utility>

namespace dalsegno {

bool MaskJob::compute() {
  Stage expected = Stage::queued;
  if (!stage_.compare_exchange_strong(expected, Stage::running)) return false;
  state = masked();
  if (!state.ok()) spent->store(true);
  stage_.store(Stage::done);
  stage_.notify_all();
  return true;
}

// One mask may take more than is reserved; no second one does.
Result<TextState> MaskJob::masked() {
  DALSEGNO_ASSIGN(text, matcher.mask(allowed));
  DALSEGNO_ASSIGN(bytes, matcher.bytes());
  if (bytes <= most_bytes) return text;
  return Error{ErrorCode::exhausted,
               fmt::format("the grammar of the constraint takes {} by now, and {} are the limit; make it simpler",
                           human_bytes(bytes), human_bytes(most_bytes))};
}

MaskThread::~MaskThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void MaskThread::start(const std::shared_ptr<MaskJob>& job) {
  job->stage_.store(MaskJob::Stage::queued);
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(job);
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  wake_.notify_one();
}

void MaskThread::take(MaskJob& job) {
  if (!job.compute()) job.stage_.wait(MaskJob::Stage::running);
  job.stage_.store(MaskJob::Stage::idle);
}

void MaskThread::run() {
  for (;;) {
    std::shared_ptr<MaskJob> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job->compute();
  }
}

}  // namespace dalsegno
