#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

namespace dalsegno::python {

// A call of the engine on a thread of its own, so that who asked can look for signals meanwhile, and leave.
// The thread of the call knows nothing of Python: it never takes the GIL, so nobody who holds it can wait for it in
// vain. What the body owns is let go on that thread.
class Call : public std::enable_shared_from_this<Call> {
 public:
  struct Event {
    enum class Kind : std::uint8_t { text, progress, question, done };
    Kind kind = Kind::done;
    std::string text{};  // new text, or the question
    int done = 0;        // prompt tokens
    int total = 0;
  };

  // Errors: as refuse_if_forked(), unsupported (the interpreter ends), exhausted (the system allows no more threads).
  static std::shared_ptr<Call> start(std::function<void(Call&)> body);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // That of this thread, or null.
  static Call* current();

  // By the body. Text waits until the reader asks for what comes after it, so that a reader who leaves has seen all
  // that was generated. False: cancelled.
  bool give(std::string text);
  bool progress(int done, int total);
  // The reader's answer to a question. Nothing: cancelled.
  std::optional<std::string> ask(std::string question);
  [[nodiscard]] std::stop_token cancelled() const { return stop_.get_token(); }

  // By the reader, one thread at a time. Nothing: time has run out. An exception of the body is thrown with its end.
  std::optional<Event> wait(int milliseconds);
  void answer(std::string text);
  // Readable when wait(0) may have something; for event loops. -1: the system refused.
  int event_fd();

  // Any thread.
  void cancel();
  [[nodiscard]] bool is_done() const;

  // Cancels all calls, and waits until they have ended.
  static void end_all();

 private:
  Call() = default;
  void run(std::function<void(Call&)> body);
  bool offer(Event event, std::unique_lock<std::mutex>& lock);
  void notify();

  std::stop_source stop_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::optional<Event> offered_;
  bool taken_ = false;  // the reader has it, and has not come back yet
  std::optional<std::string> answer_;
  std::optional<Event> progress_;
  bool done_ = false;
  std::exception_ptr thrown_;
  int fd_ = -1;
};

// Whether this is a thread that runs calls, which has no GIL.
[[nodiscard]] bool on_call_thread();

}  // namespace dalsegno::python
