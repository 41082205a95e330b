#pragma once

#include "bindings/python/python.hpp"

namespace dalsegno::python {

// A call that answers with text as it comes. It begins when it is first read, so that one that nobody reads takes no
// thread and no part of an engine.
// Threads: holders of the GIL; one reader at a time.
class Stream {
 public:
  // What it is made of. Python objects are named here, not held by the functions, so that a garbage collection sees
  // them.
  struct Parts {
    // Requires: the call ends by itself once cancelled. owner: the one below.
    std::function<std::shared_ptr<Call>(nb::handle owner)> begin{};
    std::function<nb::object()> take{};  // the result, or it raises
    std::function<std::string(nb::handle owner, const std::string& question)> answer{};
    const Engine* engine = nullptr;
    nb::object owner{};
    nb::object on_prefill{};
    SharedObject processor{};
    std::shared_ptr<Failure> failure{};
  };
  explicit Stream(Parts parts);
  ~Stream();
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) = delete;

  // Nothing: it has ended.
  std::optional<std::string> next();
  // The same without waiting, for one event loop, which opens it before and closes it afterwards: None, text, or True
  // at the end.
  nb::object poll();
  void open();
  void close();
  int event_fd();
  void cancel();
  // Reads what is left; on_text (or None) gets it, and ends the reply by returning False.
  nb::object drain(const nb::object& on_text);
  // Requires: it has ended, else invalid_argument.
  [[nodiscard]] nb::object reply() const;
  [[nodiscard]] bool has_ended() const { return ended_; }

  // What it refers to; see nanobind on cyclic garbage.
  int traverse(visitproc visit, void* arg) const;
  void finalize();
  void clear();

 private:
  class Reading;
  Call& call();
  void end();
  // Text, or nothing.
  std::optional<std::string> handle(Call::Event event);

  Parts parts_;
  std::shared_ptr<Call> call_{};
  bool reading_ = false;
  bool ended_ = false;
  nb::object reply_{};
};

// Callbacks that hand what comes to the reader of the call.
GenerateCallbacks callbacks_of(Call& call);

// A generation as a stream; T: what it comes to.
template <class T>
Stream::Parts parts_of(std::function<Result<T>(const GenerateCallbacks&)> body, const Asked& asked,
                       nb::object on_prefill) {
  const auto result = std::make_shared<std::optional<Result<T>>>();
  return {.begin =
              [result, body = std::move(body)](nb::handle) {
                return Call::start([result, body](Call& running) { result->emplace(body(callbacks_of(running))); });
              },
          .take =
              [result, failure = asked.failure] {
                failure->rethrow();
                return nb::cast(value_of(std::move(**result)));
              },
          .engine = asked.engine,
          .on_prefill = std::move(on_prefill),
          .processor = asked.processor,
          .failure = asked.failure};
}

}  // namespace dalsegno::python
