#include "bindings/python/call.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

thread_local bool t_call_thread = false;
thread_local Call* t_current = nullptr;

// Threads that run calls. They stay for the next one, as many as were ever busy at once, up to kMostIdle.
class Threads {
 public:
  // Never destroyed: idle threads still wait in it when the process ends.
  static Threads& all() {
    static auto* const threads = new Threads;
    return *threads;
  }

  void run(const std::shared_ptr<Call>& call, std::function<void()> work) {
    Work refused;  // let go after the lock
    const std::lock_guard lock(mutex_);
    running_.insert(call);
    waiting_.push_back({call, std::move(work)});
    try {
      if (waiting_.size() > idle_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      refused = std::move(waiting_.back());
      waiting_.pop_back();
      running_.erase(call);
      raise(ErrorCode::exhausted,
            "the system allows this process no more threads, and each call that is under way takes one (" +
                std::to_string(running_.size()) + " are); read streams to their end, or close them");
    }
    changed_.notify_all();
  }

  void end_all() {
    std::unique_lock lock(mutex_);
    const auto running = running_;
    lock.unlock();
    for (const auto& call : running) call->cancel();
    lock.lock();
    changed_.wait(lock, [&] { return running_.empty(); });
  }

 private:
  struct Work {
    std::shared_ptr<Call> call;
    std::function<void()> run;
  };
  static constexpr std::size_t kMostIdle = 16;

  void serve() {
    t_call_thread = true;
    std::unique_lock lock(mutex_);
    for (;;) {
      if (waiting_.empty()) {
        if (idle_ >= kMostIdle) return;
        ++idle_;
        changed_.wait(lock, [&] { return !waiting_.empty(); });
        --idle_;
      }
      Work work = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      work.run();
      work.run = nullptr;
      lock.lock();
      running_.erase(work.call);
      changed_.notify_all();
      lock.unlock();
      work.call.reset();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Work> waiting_;
  std::set<std::shared_ptr<Call>> running_;
  std::size_t idle_ = 0;
};

}  // namespace

bool on_call_thread() {
  return t_call_thread;
}

Call* Call::current() {
  return t_current;
}

std::shared_ptr<Call> Call::start(std::function<void(Call&)> body) {
  refuse_if_forked();
  if (!on_call_thread()) refuse_if_closed();
  watch_forks();
  const std::shared_ptr<Call> call(new Call);
  Threads::all().run(call, [call, body = std::move(body)]() mutable { call->run(std::exchange(body, nullptr)); });
  return call;
}

Call::~Call() {
  if (fd_ >= 0) close(fd_);
}

void Call::end_all() {
  Threads::all().end_all();
}

void Call::run(std::function<void(Call&)> body) {
  std::exception_ptr thrown;
  t_current = this;
  try {
    body(*this);
  } catch (...) {
    thrown = std::current_exception();
  }
  t_current = nullptr;
  body = nullptr;  // whoever learns of the end may rely on it that nothing is held any more
  const std::lock_guard lock(mutex_);
  thrown_ = std::move(thrown);
  done_ = true;
  notify();
}

void Call::notify() {
  changed_.notify_all();
  if (fd_ >= 0) eventfd_write(fd_, 1);
}

bool Call::offer(Event event, std::unique_lock<std::mutex>& lock) {
  offered_ = std::move(event);
  taken_ = false;
  notify();
  changed_.wait(lock, [&] { return !offered_ || stop_.stop_requested(); });
  offered_.reset();
  return !stop_.stop_requested();
}

bool Call::give(std::string text) {
  std::unique_lock lock(mutex_);
  return !stop_.stop_requested() && offer({.kind = Event::Kind::text, .text = std::move(text)}, lock);
}

bool Call::progress(int done, int total) {
  const std::lock_guard lock(mutex_);
  progress_ = Event{.kind = Event::Kind::progress, .done = done, .total = total};
  notify();
  return !stop_.stop_requested();
}

std::optional<std::string> Call::ask(std::string question) {
  std::unique_lock lock(mutex_);
  if (stop_.stop_requested() || !offer({.kind = Event::Kind::question, .text = std::move(question)}, lock)) return {};
  return std::exchange(answer_, std::nullopt);
}

std::optional<Call::Event> Call::wait(int milliseconds) {
  std::unique_lock lock(mutex_);
  if (fd_ >= 0) {
    eventfd_t count = 0;
    eventfd_read(fd_, &count);
  }
  if (taken_ && offered_) {  // back for more
    offered_.reset();
    changed_.notify_all();
  }
  changed_.wait_for(lock, std::chrono::milliseconds(milliseconds),
                    [&] { return progress_ || (offered_ && !taken_) || done_; });
  if (progress_) return std::exchange(progress_, std::nullopt);
  if (offered_ && !taken_) {
    taken_ = true;
    return *offered_;
  }
  if (!done_) return std::nullopt;
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  return Event{};
}

void Call::answer(std::string text) {
  const std::lock_guard lock(mutex_);
  answer_ = std::move(text);
}

int Call::event_fd() {
  const std::lock_guard lock(mutex_);
  if (fd_ < 0) fd_ = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);  // readable: what came before may still be unread
  return fd_;
}

void Call::cancel() {
  const std::lock_guard lock(mutex_);
  stop_.request_stop();
  changed_.notify_all();
}

bool Call::is_done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

}  // namespace dalsegno::python
